"""LIBERO, on the real simulator, gives equal results however it is placed and whatever is killed on the way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from comparing import results
from storm import MOMENTS, TARGETS, blow

TASKS = ("turn_on_the_stove", "open_the_middle_drawer_of_the_cabinet", "put_the_bowl_on_the_plate")
WORDS = ("sweep", "libero_goal", "--policy", "storm:WanderingStormPolicy", "--episodes", "2", "--tasks", *TASKS)
KILLS = [f"{moment} {target}" for moment, target in itertools.product(MOMENTS, TARGETS)]


@pytest.fixture(scope="module")
def undisturbed(libero, module_cli, tmp_path_factory) -> dict:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = module_cli(*WORDS, "--run", run, "--workers", 1, "--slots", 1, "--batch", 1, timeout=600)
    assert done.returncode == 0, done.stderr
    return results(run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("workers", "slots", "batch"), [(1, 6, 3), (2, 1, 1), (4, 2, 8)])
def test_placement_changes_nothing(undisturbed: dict, cli, tmp_path: Path, workers: int, slots: int, batch: int) -> None:
    done = cli(*WORDS, "--run", tmp_path / "run", "--workers", workers, "--slots", slots, "--batch", batch, timeout=600)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == undisturbed
    assert len(undisturbed) == 2 * len(TASKS)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_change_nothing(undisturbed: dict, cli, tmp_path: Path) -> None:
    blow(cli, WORDS, tmp_path, KILLS, undisturbed)
