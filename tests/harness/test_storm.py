"""Sweeps give equal results however they are placed, and whatever happens to them on the way.

These storms are short; ``python tests/chaos`` runs long ones by hand.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.blows import MOMENTS, NEEDS_CLOCK, NEEDS_DISK, TARGETS, Blow
from chaos.cases import LIBERO, SIMPLER, TABLETOP, TOY, Case
from chaos.disk import small_disk
from chaos.judge import finished
from chaos.preload import can_compile
from chaos.runner import Runner, run_calm
from comparing import results

#: Every kind of moment of every target of a kill.
EVERY_KILL = [Blow("kill", target, moment) for moment, target in itertools.product(MOMENTS[:4], TARGETS["kill"])]
#: Every kind of blow but kills, each once; and each on everything that it can hit.
EVERY_KIND = [(kind, targets[-1]) for kind, targets in TARGETS.items() if kind != "kill"]
EVERY_PAIR = [(kind, target) for kind, targets in TARGETS.items() for target in targets]

LIBERO_TASKS = ("turn_on_the_stove", "open_the_middle_drawer_of_the_cabinet", "put_the_bowl_on_the_plate")
WANDERING = ("--policy", "chaos.policies:WanderingStormPolicy")
CASES = {
    "tabletop": TABLETOP,
    "libero": replace(
        LIBERO, words=("sweep", "libero_goal", *WANDERING, "--episodes", "2", "--tasks", *LIBERO_TASKS), episodes=6
    ),
    # Every task of both suites, so all scenes; whole chunks, which is where most of a simulator's time goes.
    "simpler": replace(
        SIMPLER,
        words=("sweep", "simpler_widowx", "simpler_ood", "--protocol", "chunked", *WANDERING, "--episodes", "1"),
        episodes=10,
    ),
}
#: The default protocol: a picture in every row, and a row that is made of the chunks before.
ENSEMBLED = replace(
    SIMPLER,
    words=(
        *("sweep", "simpler_widowx", "--policy", "chaos.policies:FarsightedStormPolicy"),
        *("--episodes", "1", "--tasks", "stack_green_on_yellow"),
    ),
    episodes=1,
)


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """A case whose simulator is here."""
    request.getfixturevalue(request.param)
    return CASES[request.param]


@pytest.fixture(scope="module")
def undisturbed(case: Case, tmp_path_factory) -> dict:
    return calm(case, tmp_path_factory.mktemp("undisturbed"))


def calm(case: Case, folder: Path) -> dict:
    run_calm(case, folder / "run")
    found = finished(folder / "run")
    assert len(found) == case.episodes
    return found


def possible(pairs: list[tuple[str, str]], folder: Path) -> list[tuple[str, str]]:
    """Those of the blows that this machine lets us strike."""
    with small_disk(folder) as disk:
        impossible = {NEEDS_DISK} if disk is None else set()
    impossible |= set() if can_compile() else {NEEDS_CLOCK}
    return [(kind, target) for kind, target in pairs if kind not in impossible]


def weather(case: Case, folder: Path, blows: list[Blow], expected: dict) -> None:
    """Let the blows fall on the sweep until all have hit; nothing may differ, and nothing else be wrong."""
    shuffled = list(blows)
    random.Random(0).shuffle(shuffled)
    outcome = Runner(case, folder / "storm", shuffled, expected).run()
    assert outcome.differences == []
    assert outcome.problems == []
    assert outcome.episodes >= case.episodes
    assert sum(outcome.landed.values()) >= len(blows)


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
def test_kills_change_nothing(case: Case, undisturbed: dict, tmp_path: Path) -> None:
    weather(case, tmp_path, EVERY_KILL, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_do_not_change_what_chunks_are_combined_to(simpler, tmp_path: Path) -> None:
    kills = [Blow("kill", "simulator", "step"), Blow("kill", "driver", "policy"), Blow("kill", "launcher", "step")]
    weather(ENSEMBLED, tmp_path, kills, calm(ENSEMBLED, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["toy", "tabletop"])
def test_every_blow_changes_nothing(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> None:
    request.getfixturevalue({"toy": "toy_home"}.get(name, name))
    case, pairs = {"toy": (TOY, EVERY_PAIR), "tabletop": (TABLETOP, EVERY_KIND)}[name]
    rng = random.Random(0)
    blows = [Blow.draw(kind, rng, target) for kind, target in possible(pairs, tmp_path / "disk")]
    weather(case, tmp_path, blows, calm(case, tmp_path))
