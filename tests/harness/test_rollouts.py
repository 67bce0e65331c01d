"""What RL collects: exact numbers of chunks, the same for any number of workers, with both observations at every reset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comparing import comparable, flat
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.benchmarks.suite import Suite
from vlarig.benchmarks.tabletop import TABLETOP
from vlarig.envs.api import Episode
from vlarig.harness import Rollouts
from vlarig.harness.engine import Transition
from vlarig.harness.rollouts import episode_stream

SLOTS = 8


def unequal_streams(suite: Suite) -> list[Iterator[Episode]]:
    """A stream for each slot, whose episodes are at most 9, 12, ... 30 steps long."""
    standard = suite.protocols[0]
    return [episode_stream(suite, standard.derive(step_limit=9 + 3 * slot), slot, SLOTS) for slot in range(SLOTS)]


def collect(workers: int, suite: Suite = TOY_SUITE) -> list[list[list[Transition]]]:
    """Three times eight chunks from each of the eight slots."""
    policy = ImageReader(horizon=suite.protocols[0].execute)
    streams = unequal_streams(suite)
    with Rollouts(suite.name, policy, workers=workers, slots=SLOTS // workers, streams=streams, seed=7) as rollouts:
        return [rollouts.collect(8) for _ in range(3)]


def everything(collected: list[list[list[Transition]]]) -> list[list[list[dict]]]:
    return [[[comparable(each) for each in slot] for slot in part] for part in collected]


@pytest.fixture(scope="module")
def by_one_worker() -> list[list[list[Transition]]]:
    """What one worker collects, once for the whole module."""
    return []


@pytest.fixture
def collected(by_one_worker: list[list[list[Transition]]], toy_home: Path) -> list[list[list[Transition]]]:
    if not by_one_worker:
        by_one_worker += collect(workers=1)
    return by_one_worker


def test_workers_do_not_change_what_is_collected(collected: list[list[list[Transition]]]) -> None:
    for workers in (2, 4):
        assert everything(collect(workers)) == everything(collected)


@pytest.mark.slow
def test_workers_do_not_change_what_is_collected_in_the_embedded_suite(
    tabletop: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = everything(collect(1, TABLETOP))
    assert everything(collect(2, TABLETOP)) == alone
    assert everything(collect(4, TABLETOP)) == alone


def test_a_protocol_can_be_chosen(toy_home: Path) -> None:
    with Rollouts("two_ways", ImageReader(), protocol="quick") as rollouts:
        ((transition,),) = rollouts.collect(1)
    assert transition.request.key.startswith("two_ways/quick@1/")
    assert len(transition.result.rows) == 4


def test_exactly_as_many_chunks_as_asked_for(collected: list[list[list[Transition]]]) -> None:
    assert [[len(slot) for slot in part] for part in collected] == [[8] * SLOTS] * 3


def test_episodes_cross_the_cuts(collected: list[list[list[Transition]]]) -> None:
    crossings = 0
    for slot in range(SLOTS):
        for before, after in itertools.pairwise(part[slot] for part in collected):
            last, first = before[-1], after[0]
            if not last.result.over:
                assert (first.request.key, first.request.chunk) == (last.request.key, last.request.chunk + 1)
                assert flat(first.request.observation) == flat(last.observation)
                crossings += 1
    assert crossings >= 4


def test_the_final_and_the_next_first_observation_are_both_there(collected: list[list[list[Transition]]]) -> None:
    ends = 0
    for slot in range(SLOTS):
        chunks = [transition for part in collected for transition in part[slot]]
        for transition, following in itertools.pairwise(chunks):
            if not transition.result.over:
                assert transition.next_first is None
                continue
            ends += 1
            assert transition.next_first is not None
            assert following.request.key != transition.request.key
            assert flat(following.request.observation) == flat(transition.next_first)
            for observation in (transition.observation, transition.next_first):
                assert observation["images"]["ego"].shape == (1, 64, 64, 3)
            assert not np.array_equal(transition.observation["state"], transition.next_first["state"])
    assert ends >= 3 * SLOTS


def test_a_slots_stream_never_ends_and_counts_repeats() -> None:
    stream = episode_stream(TOY_SUITE, TOY_SUITE.protocols[0], slot=1, slots=2)
    keys = [next(stream).key for _ in range(21)]
    assert keys[0] == "toy/standard@1/reach_red/base/1/0"
    assert keys[20] == "toy/standard@1/reach_red/base/1/1"
    assert len(set(keys)) == 21
