"""Sweeps of LIBERO give equal results on any placement, and when a driver, a launcher or a simulator is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos.blows import Blow
from chaos.campaign import undisturbed
from chaos.cases import LIBERO
from chaos.weather import assert_placed_alike, assert_unharmed

TASKS = ("turn_on_the_stove", "open_the_middle_drawer_of_the_cabinet", "put_the_bowl_on_the_plate")

#: Six episodes of ten chunks; an episode is as long as its scene takes to compile.
CASE = replace(
    LIBERO,
    words=(
        *("sweep", "libero_goal", "--policy", "chaos.policies:WanderingStormPolicy", "--policy-options", "step_limit=80"),
        *("--episodes", "2", "--tasks", *TASKS),
    ),
    episodes=6,
)

#: Every target once; the embedded suite's storm has it at every moment.
KILLS = [Blow("kill", "simulator", "reset"), Blow("kill", "launcher", "policy"), Blow("kill", "driver", "commit")]


@pytest.fixture(scope="module")
def calm(libero, tmp_path_factory) -> dict[str, Any]:
    return undisturbed(CASE, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_placement_changes_nothing(calm: dict[str, Any], cli, tmp_path: Path) -> None:
    assert_placed_alike(CASE, cli, tmp_path / "run", (2, 4, 3), calm)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_change_nothing(calm: dict[str, Any], tmp_path: Path) -> None:
    assert_unharmed(CASE, tmp_path, KILLS, calm)
