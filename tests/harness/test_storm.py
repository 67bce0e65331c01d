"""Real simulators give equal results however a sweep is placed and whatever is killed on the way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest
from comparing import results
from storm import MOMENTS, TARGETS, blow

from vlarig.harness.runtimes import Runtime

EVERY_KILL = [f"{moment} {target}" for moment, target in itertools.product(MOMENTS, TARGETS)]


@dataclass(frozen=True)
class Case:
    """A sweep, and what it must survive.

    Attributes:
        words: Its command line.
        episodes: Episodes that it has.
        kills: Kills of its storm.
    """

    words: tuple[str, ...]
    episodes: int
    kills: list[str]


TABLETOP = Case(("sweep", "tabletop", "--policy", "storm:StormPolicy", "--episodes", "2"), 10, EVERY_KILL * 2)
LIBERO_TASKS = ("turn_on_the_stove", "open_the_middle_drawer_of_the_cabinet", "put_the_bowl_on_the_plate")
LIBERO = Case(
    ("sweep", "libero_goal", "--policy", "storm:WanderingStormPolicy", "--episodes", "2", "--tasks", *LIBERO_TASKS),
    6,
    EVERY_KILL,
)
#: Every task of both suites, so all scenes; whole chunks, which is where most of a simulator's time goes.
SIMPLER = Case(
    (
        "sweep",
        "simpler_widowx",
        "simpler_ood",
        "--protocol",
        "chunked",
        "--policy",
        "storm:WanderingStormPolicy",
        "--episodes",
        "1",
    ),
    10,
    EVERY_KILL,
)
#: The default protocol: a picture in every row, and a row that is made of the chunks before.
ENSEMBLED = Case(
    (
        "sweep",
        "simpler_widowx",
        "--policy",
        "storm:FarsightedStormPolicy",
        "--episodes",
        "1",
        "--tasks",
        "stack_green_on_yellow",
    ),
    1,
    ["step simulator", "policy driver", "step server"],
)
CASES = {"tabletop": TABLETOP, "libero": LIBERO, "simpler": SIMPLER}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """A case whose simulator is here."""
    request.getfixturevalue(request.param)
    return CASES[request.param]


@pytest.fixture(scope="module")
def undisturbed(case: Case, module_cli, tmp_path_factory) -> dict:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = module_cli(*case.words, "--run", run, "--workers", 1, "--slots", 1, "--batch", 1, timeout=600)
    assert done.returncode == 0, done.stderr
    found = results(run)
    assert len(found) == case.episodes
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("workers", "slots", "batch"), [(1, 8, 3), (2, 1, 1), (4, 8, 32)])
def test_placement_changes_nothing(
    case: Case, undisturbed: dict, cli, tmp_path: Path, workers: int, slots: int, batch: int
) -> None:
    done = cli(*case.words, "--run", tmp_path / "run", "--workers", workers, "--slots", slots, "--batch", batch, timeout=600)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_change_nothing(case: Case, undisturbed: dict, cli, tmp_path: Path) -> None:
    blow(cli, case.words, tmp_path, case.kills, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_do_not_change_what_chunks_are_combined_to(simpler: Runtime, cli, tmp_path: Path) -> None:
    calm, storm = tmp_path / "calm", tmp_path / "storm"
    done = cli(*ENSEMBLED.words, "--run", calm, "--workers", 1, timeout=600)
    assert done.returncode == 0, done.stderr
    storm.mkdir()
    blow(cli, ENSEMBLED.words, storm, ENSEMBLED.kills, results(calm))
