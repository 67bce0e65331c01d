"""Sweeps of the embedded suite and of the toy give equal results on any placement, and under every kind of fault.

These storms are short; ``python tests/chaos`` runs long ones by hand.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos.blows import MOMENTS, NEEDS_CLOCK, NEEDS_DISK, TARGETS, Blow
from chaos.campaign import undisturbed
from chaos.cases import TABLETOP, TOY
from chaos.disk import small_disk
from chaos.preload import can_compile
from chaos.weather import assert_placed_alike, assert_unharmed

#: One initial state of each task.
CASE = replace(TABLETOP, words=("sweep", "tabletop", "--policy", "chaos.policies:StormPolicy", "--episodes", "1"), episodes=5)

#: Every kind of moment of every target of a kill.
EVERY_KILL = [Blow("kill", target, moment) for moment, target in itertools.product(MOMENTS[:4], TARGETS["kill"])]
#: Every kind of blow but kills, each once; and each on everything that it can hit.
EVERY_KIND = [(kind, targets[-1]) for kind, targets in TARGETS.items() if kind != "kill"]
EVERY_PAIR = [(kind, target) for kind, targets in TARGETS.items() for target in targets]


@pytest.fixture(scope="module")
def calm(tabletop, tmp_path_factory) -> dict[str, Any]:
    return undisturbed(CASE, tmp_path_factory.mktemp("undisturbed"))


def possible(pairs: list[tuple[str, str]], folder: Path) -> list[tuple[str, str]]:
    """The blows that this machine permits."""
    with small_disk(folder) as disk:
        impossible = {NEEDS_DISK} if disk is None else set()
    impossible |= set() if can_compile() else {NEEDS_CLOCK}
    return [(kind, target) for kind, target in pairs if kind not in impossible]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("placement", [(1, 8, 3), (2, 1, 1), (4, 8, 32)])
def test_placement_changes_nothing(calm: dict[str, Any], cli, tmp_path: Path, placement: tuple[int, int, int]) -> None:
    assert_placed_alike(CASE, cli, tmp_path / "run", placement, calm)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_change_nothing(calm: dict[str, Any], tmp_path: Path) -> None:
    assert_unharmed(CASE, tmp_path, EVERY_KILL, calm)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_blow_changes_nothing(calm: dict[str, Any], tmp_path: Path) -> None:
    impatient = replace(CASE, settings=replace(CASE.settings, step=4.0))  # which is what a hang and a stopped simulator cost
    assert_unharmed(impatient, tmp_path, sampled(EVERY_KIND, tmp_path), calm)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_blow_on_every_target_changes_nothing(toy_home: Path, tmp_path: Path) -> None:
    assert_unharmed(TOY, tmp_path, sampled(EVERY_PAIR, tmp_path), undisturbed(TOY, tmp_path / "undisturbed"))


def sampled(pairs: list[tuple[str, str]], folder: Path) -> list[Blow]:
    rng = random.Random(0)
    return [Blow.sample(kind, rng, target) for kind, target in possible(pairs, folder / "disk")]
