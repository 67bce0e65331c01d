"""The embedded suite, on the real simulator, gives equal results however it is placed and whatever is killed on the way."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from comparing import results
from storm import MOMENTS, STORM, TARGETS

WORDS = ("sweep", "tabletop", "--policy", "storm:StormPolicy", "--episodes", "2")
KILLS = 2 * len(MOMENTS) * len(TARGETS)


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
    plan = [f"{moment} {target}" for moment, target in itertools.product(MOMENTS, TARGETS)] * 2
    random.Random(0).shuffle(plan)
    (tmp_path / "schedule").write_text("\n".join(plan))
    sweeps = itertools.cycle([(2, 2), (4, 1), (1, 8)])
    generation = 0
    while (tmp_path / "schedule").read_text():
        # A run that is done while the storm goes on is an undisturbed end; the storm goes on over a further run.
        run = tmp_path / f"run{generation}"
        workers, slots = next(sweeps)
        done = cli(*WORDS, "--run", run, "--workers", workers, "--slots", slots, timeout=600, **{STORM: str(tmp_path)})
        assert done.returncode in (0, 1, -9), done.stderr
        if done.returncode == 0:
            assert results(run) == undisturbed
            generation += 1
    while cli(*WORDS, "--run", run, timeout=600).returncode == 1:
        pass
    assert results(run) == undisturbed
    kills = Counter((tmp_path / "kills").read_text().splitlines())
    assert kills == Counter(plan)
    assert kills.total() == KILLS >= 20
