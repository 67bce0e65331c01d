"""Sweeps of SimplerEnv give equal results on any placement, and when a driver, a launcher or a simulator is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos.blows import Blow
from chaos.campaign import undisturbed
from chaos.cases import SIMPLER
from chaos.weather import assert_placed_alike, assert_unharmed

#: Every task of both suites, so all scenes; three whole chunks, which is where most of a simulator's time goes.
CHUNKED = ("--protocol", "chunked", "--policy", "chaos.policies:WanderingStormPolicy", "--policy-options", "step_limit=48")
BOTH = replace(SIMPLER, words=("sweep", "simpler_widowx", "simpler_ood", "--episodes", "1", *CHUNKED), episodes=10)
OOD = replace(SIMPLER, words=("sweep", "simpler_ood", "--episodes", "1", *CHUNKED), episodes=6)
#: The default protocol: a picture in every step, and a step that is made of the chunks before.
ENSEMBLED = replace(
    SIMPLER,
    words=(
        *("sweep", "simpler_widowx", "--episodes", "1", "--tasks", "stack_green_on_yellow"),
        *("--policy", "chaos.policies:FarsightedStormPolicy", "--policy-options", "step_limit=40"),
    ),
    episodes=1,
)

#: Every target once each; the embedded suite's storm has it at every moment.
OOD_KILLS = [Blow("kill", "driver", "step"), Blow("kill", "launcher", "reset"), Blow("kill", "simulator", "commit")]
ENSEMBLED_KILLS = [Blow("kill", "driver", "policy"), Blow("kill", "simulator", "step"), Blow("kill", "launcher", "step")]


@pytest.fixture(scope="module")
def calm(simpler, tmp_path_factory) -> dict[str, Any]:
    return undisturbed(BOTH, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_placement_changes_nothing(calm: dict[str, Any], cli, tmp_path: Path) -> None:
    assert_placed_alike(BOTH, cli, tmp_path / "run", (2, 4, 3), calm)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_change_nothing(calm: dict[str, Any], tmp_path: Path) -> None:
    expected = {key: result for key, result in calm.items() if key.startswith("simpler_ood/")}
    assert_unharmed(OOD, tmp_path, OOD_KILLS, expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_do_not_change_what_chunks_are_combined_to(simpler, tmp_path: Path) -> None:
    assert_unharmed(ENSEMBLED, tmp_path, ENSEMBLED_KILLS, undisturbed(ENSEMBLED, tmp_path / "undisturbed"))
