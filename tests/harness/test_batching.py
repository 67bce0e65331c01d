"""Batches: bounded, not waiting for those who will not come, each reply to its own request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest
from toy.env import TOY_POINT

from vlarig.envs.api import Needs, Observation
from vlarig.harness.batching import Answer, Batcher, Batching
from vlarig.policies.api import PolicyError, Reply, Request


class Echo:
    """Answers with the request's slot, after a while; an uneven version counts its batches."""

    name, revision, needs, horizon = "echo", "1", Needs(), 2
    version = 7

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[int]] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.seconds)
        self.batches.append([request.slot for request in requests])
        return [Reply(np.full((2, 3), request.slot, np.float32)) for request in requests]


def request(slot: int) -> Request:
    observation = Observation(images={}, state=np.zeros(3, np.float32), instruction="go")
    return Request(slot, f"toy/standard@1/reach_red/base/{slot}/0", 0, 0, observation, TOY_POINT, 2)


def ask_all(policy: Echo, batching: Batching, slots: int, playing: int | None = None) -> tuple[list[Answer], float]:
    async def run() -> tuple[list[Answer], float]:
        async with Batcher(policy, batching) as batcher:
            batcher.playing = slots if playing is None else playing
            began = time.monotonic()
            answers = await asyncio.gather(*(batcher.ask(request(slot)) for slot in range(slots)))
            return answers, time.monotonic() - began

    return asyncio.run(run())


def test_each_reply_reaches_its_request_and_no_batch_is_too_large() -> None:
    policy = Echo(0.01)
    answers, _ = ask_all(policy, Batching(3), 10)
    assert [answer.reply.actions[0, 0] for answer in answers] == list(range(10))
    assert max(map(len, policy.batches)) == 3
    assert sum(map(len, policy.batches)) == 10
    assert {answer.policy_version for answer in answers} == {7}
    assert all(answer.seconds >= 0.01 for answer in answers)


def test_a_batch_does_not_wait_for_slots_that_are_not_there() -> None:
    policy = Echo()
    _, seconds = ask_all(policy, Batching(8, wait_seconds=5.0), 4)
    assert seconds < 2.0
    assert policy.batches == [[0, 1, 2, 3]]


def test_a_batch_waits_no_longer_than_it_may() -> None:
    policy = Echo()
    _, seconds = ask_all(policy, Batching(8, wait_seconds=0.3), 4, playing=8)
    assert 0.25 < seconds < 2.0
    assert policy.batches == [[0, 1, 2, 3]]


def test_a_batch_of_fixed_shape_is_filled_and_the_filling_thrown_away() -> None:
    policy = Echo()
    answers, _ = ask_all(policy, Batching(4, fixed_shape=True), 2)
    assert {len(batch) for batch in policy.batches} == {4}
    assert [answer.reply.actions[0, 0] for answer in answers] == [0, 1]


def test_a_policys_failure_is_told_to_all_who_asked() -> None:
    policy = Echo()
    policy.horizon = 3
    with pytest.raises(PolicyError, match="with 2 rows; its horizon is 3"):
        ask_all(policy, Batching(4), 3)
