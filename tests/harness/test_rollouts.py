"""Rollouts for RL: exact numbers of chunks, the same for any number of workers, with both observations at every reset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from comparing import comparable, flat
from toy.learner import Learner
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.benchmarks.suite import Suite
from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.envs.api import Episode
from vlarig.envs.errors import VlarigError
from vlarig.harness import Rollouts
from vlarig.harness.machines.fleets import LocalFleet
from vlarig.harness.replicas import replicated_policy
from vlarig.harness.rollouts import training_stream
from vlarig.harness.sinks import Transition
from vlarig.policies.api import Reply, Request

ENVS_PER_WORKER = 8


def unequal_streams(suite: Suite) -> list[Iterator[Episode]]:
    """A stream for each env, whose episodes are at most 9, 12, ... 30 steps long."""
    task, standard = suite.tasks[0], suite.protocols[0]
    return [
        training_stream(suite, task, standard.derive(step_limit=9 + 3 * env), env, ENVS_PER_WORKER)
        for env in range(ENVS_PER_WORKER)
    ]


def collect(workers: int, suite: Suite = TOY_SUITE, parts: Sequence[int] = (8, 8, 8)) -> list[list[list[Transition]]]:
    """So many chunks from each of the eight envs, part by part."""
    policy = ImageReader(horizon=suite.protocols[0].n_action_steps)
    streams = {suite.name: unequal_streams(suite)}
    with Rollouts({suite.name: ENVS_PER_WORKER}, policy, fleet=LocalFleet(workers), streams=streams, seed=7) as rollouts:
        return [rollouts.collect(chunks) for chunks in parts]


def everything(collected: list[list[list[Transition]]]) -> list[list[list[dict]]]:
    return [[[comparable(each) for each in env] for env in part] for part in collected]


@pytest.fixture(scope="module")
def by_one_worker() -> list[list[list[Transition]]]:
    """The transitions of one worker, once for the whole module."""
    return []


@pytest.fixture
def collected(by_one_worker: list[list[list[Transition]]], toy_home: Path) -> list[list[list[Transition]]]:
    if not by_one_worker:
        by_one_worker += collect(workers=1)
    return by_one_worker


@pytest.mark.slow
def test_workers_do_not_change_what_is_collected(collected: list[list[list[Transition]]]) -> None:
    for workers in (2, 4):
        assert everything(collect(workers)) == everything(collected)


@pytest.mark.slow
def test_workers_do_not_change_what_is_collected_in_the_embedded_suite(
    tabletop: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone, *others = (everything(collect(workers, TABLETOP, (4, 4))) for workers in (1, 2, 4))
    assert others == [alone, alone]


def test_a_protocol_can_be_chosen(toy_home: Path) -> None:
    with Rollouts({"two_ways": 1}, ImageReader(), protocols={"two_ways": "quick"}) as rollouts:
        ((transition,),) = rollouts.collect(1)
    assert transition.request.key.startswith("two_ways/quick@1/")
    assert len(transition.result.steps) == 4


def test_exactly_as_many_chunks_as_requested(collected: list[list[list[Transition]]]) -> None:
    assert [[len(env) for env in part] for part in collected] == [[8] * ENVS_PER_WORKER] * 3


def test_episodes_cross_the_cuts(collected: list[list[list[Transition]]]) -> None:
    crossings = 0
    for env in range(ENVS_PER_WORKER):
        for before, after in itertools.pairwise(part[env] for part in collected):
            last, first = before[-1], after[0]
            if not last.result.over:
                assert (first.request.key, first.request.chunk) == (last.request.key, last.request.chunk + 1)
                assert flat(first.request.observation) == flat(last.observation)
                crossings += 1
    assert crossings >= 4


def test_the_final_and_the_next_first_observation_are_both_there(collected: list[list[list[Transition]]]) -> None:
    ends = 0
    for env in range(ENVS_PER_WORKER):
        chunks = [transition for part in collected for transition in part[env]]
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
    assert ends >= 3 * ENVS_PER_WORKER


def test_the_streams_of_a_task_sample_each_training_state_once() -> None:
    task, protocol = TOY_SUITE.tasks[0], TOY_SUITE.protocols[0]
    streams = [training_stream(TOY_SUITE, task, protocol, env, 3) for env in range(3)]
    keys = [next(stream).key for _ in range(4) for stream in streams]
    assert keys == [f"toy/standard@1/reach_red/training/{number}/0" for number in range(12)]


def key_of(transition: Transition) -> str:
    return transition.episode.key


@pytest.mark.usefixtures("toy_home")
def test_envs_are_those_of_the_requested_suites_and_tasks() -> None:
    wanted = {"toy": {"reach_blue": 3, "reach_red": 1}, "two_ways": 3}
    with Rollouts(wanted, ImageReader(), protocols={"two_ways": "quick"}, fleet=LocalFleet(2)) as rollouts:
        assert rollouts.num_envs == 7
        first = [keys[0] for keys in rollouts.collect(1, key_of)]
    assert first == [
        *(f"toy/standard@1/reach_blue/training/{number}/0" for number in range(3)),
        "toy/standard@1/reach_red/training/0/0",
        "two_ways/quick@1/reach_red/training/0/0",
        "two_ways/quick@1/reach_red/training/1/0",
        "two_ways/quick@1/reach_blue/training/0/0",
    ]


@pytest.mark.parametrize(
    ("envs", "sentence"),
    [
        ({"toy": 0}, "is no number of envs for the tasks of 'toy'; expected 1 or more"),
        ({"toy": {"reach_green": 1}}, "unknown task 'reach_green'"),
        ({"toys": 1}, "unknown suite 'toys'"),
    ],
)
def test_envs_that_cannot_be_are_refused(toy_home: Path, envs: dict, sentence: str) -> None:
    with pytest.raises(VlarigError, match=sentence):
        Rollouts(envs, ImageReader())


def of_two_suites(workers: int) -> list[list[dict]]:
    with Rollouts({"toy": 5, "two_ways": 3}, ImageReader(8), fleet=LocalFleet(workers), seed=3) as rollouts:
        return [env for _ in range(2) for env in rollouts.collect(6, comparable)]


@pytest.mark.slow
def test_workers_do_not_change_what_is_collected_of_two_suites(toy_home: Path) -> None:
    alone = of_two_suites(1)
    assert of_two_suites(2) == alone
    assert of_two_suites(4) == alone


class Composed(ImageReader):
    """Notes which envs each of its batches is of."""

    def __init__(self) -> None:
        super().__init__(8)
        self.envs: list[list[int]] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.envs.append([request.env for request in requests])
        return super().act(requests)


def test_groups_are_answered_whole_and_in_order(toy_home: Path) -> None:
    policy = Composed()
    with Rollouts({"toy": 4, "two_ways": 2}, policy, fleet=LocalFleet(2), groups=2) as rollouts:
        collected = rollouts.collect(5, comparable)
    with Rollouts({"toy": 4, "two_ways": 2}, ImageReader(8), fleet=LocalFleet(2)) as rollouts:
        assert collected == rollouts.collect(5, comparable)
    assert sorted(policy.envs) == [[0, 1, 2]] * 5 + [[3, 4, 5]] * 5


def test_groups_are_equal(toy_home: Path) -> None:
    with pytest.raises(VlarigError, match="5 envs cannot be put into 2 equal groups; choose a number that divides them"):
        Rollouts({"toy": 5}, ImageReader(8), groups=2)


def test_another_process_goes_on_in_mid_episode(toy_home: Path) -> None:
    envs = {"toy": 3, "two_ways": 2}
    with Rollouts(envs, ImageReader(8), fleet=LocalFleet(1), seed=3) as rollouts:
        rollouts.collect(7, key_of)
        progress = rollouts.progress()
        expected = rollouts.collect(6, comparable)
    assert any(each.actions for each in progress)
    assert max(each.given for each in progress) > 1
    with Rollouts(envs, ImageReader(8), fleet=LocalFleet(2), seed=3) as rollouts:
        rollouts.go_on(progress)
        assert rollouts.collect(6, comparable) == expected


def test_the_value_of_a_cut_rollout_is_taken_at_what_was_seen_last(toy_home: Path) -> None:
    policy = Learner()
    policy.load_weights(1, {"gain": np.ones(1, np.float32)})
    with Rollouts({"toy": 2}, policy) as rollouts:
        last = [chunks[-1] for chunks in rollouts.collect(2)]
        following = [chunks[0] for chunks in rollouts.collect(1)]
    values = policy.value([transition.following for transition in last])
    np.testing.assert_array_equal(values, policy.value([transition.request for transition in following]))


@pytest.mark.usefixtures("toy_home")
def test_new_weights_and_their_version_are_in_what_is_collected_next() -> None:
    with (
        closing(replicated_policy("toy.learner:Learner", {}, 2)) as policy,
        Rollouts({"toy": 4}, policy, fleet=LocalFleet(2)) as rollouts,
    ):
        versions, actions = [], []
        for version in (1, 2):
            policy.load_weights(version, {"gain": np.full(1, version / 2, np.float32)})
            policy.record({"level": 0.5})
            chunks = [chunk for env in rollouts.collect(2) for chunk in env]
            versions.append({chunk.policy_version for chunk in chunks})
            actions.append(np.abs([chunk.actions for chunk in chunks]).max())
            assert {chunk.reply.recorded.log_probability for chunk in chunks if chunk.reply.recorded} == {-version / 2}
    assert versions == [{1}, {2}]
    assert actions == [0.5, 1.0]
