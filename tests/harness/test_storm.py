"""The embedded suite, on the real simulator, gives equal results however it is placed and whatever is killed on the way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from comparing import results
from storm import MOMENTS, TARGETS, blow

WORDS = ("sweep", "tabletop", "--policy", "storm:StormPolicy", "--episodes", "2")
KILLS = [f"{moment} {target}" for moment, target in itertools.product(MOMENTS, TARGETS)] * 2


@pytest.fixture(scope="module")
def undisturbed(tabletop, module_cli, tmp_path_factory) -> dict:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = module_cli(*WORDS, "--run", run, "--workers", 1, "--slots", 1, "--batch", 1, timeout=600)
    assert done.returncode == 0, done.stderr
    return results(run)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("workers", "slots", "batch"), [(1, 8, 3), (2, 1, 1), (4, 8, 32)])
def test_placement_changes_nothing(undisturbed: dict, cli, tmp_path: Path, workers: int, slots: int, batch: int) -> None:
    done = cli(*WORDS, "--run", tmp_path / "run", "--workers", workers, "--slots", slots, "--batch", batch, timeout=600)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == undisturbed
    assert len(undisturbed) == 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_change_nothing(undisturbed: dict, cli, tmp_path: Path) -> None:
    blow(cli, WORDS, tmp_path, KILLS, undisturbed)
    assert len(KILLS) >= 20
