"""Batches: bounded, not waiting for envs that send nothing, each reply to its own request."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy.env import TOY_POINT

from vlarig.envs.api import Needs, Observation
from vlarig.policies.api import Policy, PolicyError, PolicyLost, Reply, Request
from vlarig.policies.batching import Batcher, Batching
from vlarig.policies.calls import n_action_steps_for
from vlarig.policies.member_queue import Answer, Load, MemberQueue, SizeLoad, side_by_side


class Echo(Policy):
    """Answers with the request's env, after a while; an uneven version counts its batches."""

    name, revision, needs, horizon = "echo", "1", Needs(), 2
    version = 7

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[int]] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.seconds)
        self.batches.append([request.env for request in requests])
        return [Reply(np.full((2, 3), request.env, np.float32)) for request in requests]


def request(env: int) -> Request:
    observation = Observation(images={}, state=np.zeros(3, np.float32), instruction="go")
    return Request(env, f"toy/standard@1/reach_red/base/{env}/0", 0, 0, observation, TOY_POINT, 2)


def ask_all(policy: Echo, batching: Batching, envs: int, playing: int | None = None) -> tuple[list[Answer], float]:
    async def run() -> tuple[list[Answer], float]:
        async with Batcher(policy, batching) as batcher:
            batcher.playing = envs if playing is None else playing
            began = time.monotonic()
            answers = await asyncio.gather(*(batcher.ask(request(env)) for env in range(envs)))
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


def test_a_batch_does_not_wait_for_envs_that_are_not_there() -> None:
    policy = Echo()
    _, seconds = ask_all(policy, Batching(8, wait_seconds=5.0), 4)
    assert seconds < 2.0
    assert policy.batches == [[0, 1, 2, 3]]


def test_a_batch_waits_no_longer_than_it_may() -> None:
    policy = Echo()
    _, seconds = ask_all(policy, Batching(8, wait_seconds=0.3), 4, playing=8)
    assert 0.25 < seconds < 2.0
    assert policy.batches == [[0, 1, 2, 3]]


def test_batches_of_one_answer_everyone_alone() -> None:
    policy = Echo(0.01)
    answers, _ = ask_all(policy, Batching(1, wait_seconds=5.0), 6)
    assert policy.batches == [[env] for env in range(6)]
    assert [answer.reply.actions[0, 0] for answer in answers] == list(range(6))


def test_a_policys_failure_reaches_every_request_of_the_batch() -> None:
    policy = Echo()
    policy.horizon = 3
    with pytest.raises(PolicyError, match="with 2 steps; its horizon is 3"):
        ask_all(policy, Batching(4), 3)


class Rounding(Echo):
    """Its answers move a little with the size of the batch, as a neural network's do."""

    batch_sensitive = True

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(reply.actions + np.float32(len(requests) - 1) / 1024) for reply in super().act(requests)]


def rounding_of(policy: Echo, batching: Batching, envs: int, times: int) -> tuple[int, float]:
    async def run() -> tuple[int, float]:
        async with Batcher(policy, batching) as batcher:
            batcher.playing = envs
            for _ in range(times):
                await asyncio.gather(*(batcher.ask(request(env)) for env in range(envs)))
            return batcher.rounding.compared, batcher.rounding.largest

    return asyncio.run(run())


def test_what_batching_does_to_the_answers_is_measured_now_and_then() -> None:
    assert rounding_of(Rounding(), Batching(3, wait_seconds=1), 3, 1) == (1, 2 / 1024)
    policy = Rounding()
    compared, largest = rounding_of(policy, Batching(3, wait_seconds=1), 3, 40)
    assert (compared, largest) == (6, 2 / 1024)  # batches 1, 2, 4, 8, 16 and 32
    assert len(policy.batches) == 46


@pytest.mark.parametrize(
    ("policy", "most"), [(Rounding(), 1), (Echo(), 3)], ids=["batches of one", "a policy that does not say so"]
)
def test_no_request_is_repeated_without_need(policy: Echo, most: int) -> None:
    assert rounding_of(policy, Batching(most, wait_seconds=1), 3, 4) == (0, 0.0)
    assert sum(map(len, policy.batches)) == 12


def test_a_robot_may_be_answered_with_fewer_steps_than_the_horizon() -> None:
    class Walker(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.horizon = 16

        def horizon_for(self, embodiment: object) -> int:
            return 2

    answers, _ = ask_all(Walker(), Batching(2), 2)
    assert [answer.reply.actions.shape for answer in answers] == [(2, 3), (2, 3)]
    assert n_action_steps_for(Walker(), TOY_POINT, 8) == 2


class Bare(Echo):
    """A policy with a common mistake: it answers with arrays."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [reply.actions for reply in super().act(requests)]  # pyright: ignore[reportReturnType]


class AloneFails(Rounding):
    """It fails on a request alone."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        if len(requests) == 1:
            raise RuntimeError("out of memory")
        return super().act(requests)


class StepsFail(Echo):
    """Its ``horizon_for`` raises."""

    def horizon_for(self, embodiment: object) -> int:
        raise KeyError("robot")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (
            Bare(),
            r"answered toy/standard@1/reach_red/base/\d/0 with something of type ndarray; give a vlarig.policies.api.Reply",
        ),
        (AloneFails(), r"the policy 'echo' raised RuntimeError while it acted for .*: out of memory"),
        (StepsFail(), r"the policy 'echo' raised KeyError while it gave its horizon: .*"),
    ],
    ids=["arrays", "fails alone", "steps fail"],
)
def test_every_failure_of_a_policy_reaches_its_request(policy: Echo, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        ask_all(policy, Batching(3, wait_seconds=1), 3)


class Ends(BaseException):
    """No exception of ours or of Python's."""


class Raises(Echo):
    """Raises what it is given, as long as there is something."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__()
        self.errors = list(errors)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        if self.errors:
            raise self.errors.pop(0)
        return super().act(requests)


ENDINGS = {
    "exit": (SystemExit(0), "tried to exit while it acted for .*: status 0"),
    "cancel": (asyncio.CancelledError(), "raised CancelledError while it acted for "),
    "close": (GeneratorExit(), "raised GeneratorExit while it acted for "),
    "interrupt": (KeyboardInterrupt(), "raised KeyboardInterrupt while it acted for "),
    "own": (Ends("over"), "raised Ends while it acted for .*: over"),
    "stop": (StopIteration(), "raised StopIteration while it acted for "),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ENDINGS)
def test_whatever_a_policy_raises_is_an_answer_and_the_next_request_is_answered_too(kind: str) -> None:
    error, sentence = ENDINGS[kind]

    async def run() -> None:
        async with Batcher(Raises(error), Batching(4)) as batcher:
            batcher.playing = 2
            answers = await asyncio.gather(*(batcher.ask(request(env)) for env in range(2)), return_exceptions=True)
            for each in answers:
                assert isinstance(each, PolicyError)
                assert re.search(sentence, str(each))
                assert f"({__file__}:" in str(each), "the line that raised is named"
                assert "in act" in each.traceback
            assert (await batcher.ask(request(0))).reply.actions[0, 0] == 0
            assert batcher.answers

    asyncio.run(run())


@pytest.mark.timeout(20)
def test_a_defect_beside_the_policys_code_leaves_no_request_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(MemberQueue, "_in_thread", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        ask_all(Echo(), Batching(4), 3)


class Reusing(Echo):
    """Fills one and the same buffer for every request."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((2, 3), np.float32)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self.fill(request)) for request in requests]

    def fill(self, request: Request) -> np.ndarray:
        self.buffer[:] = request.env
        return self.buffer


class OneArray(Echo):
    """All of a batch in one array, a part for each request."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        together = np.zeros((len(requests), 2, 3), np.float32)
        together[:] = np.array([request.env for request in requests])[:, None, None]
        return [Reply(each) for each in together]


class Viewing(Reusing):
    """Shows the buffer by a view that cannot be written to."""

    def fill(self, request: Request) -> np.ndarray:
        view = super().fill(request).view()
        view.flags.writeable = False
        return view


class OnTorch(Reusing):
    """Fills the buffer as torch sees it, by a tensor of its own each time."""

    def fill(self, request: Request) -> Any:
        torch = pytest.importorskip("torch")
        return torch.from_numpy(super().fill(request))


class Labelling(Reusing):
    """Answers with arrays of their own, but with labels from the buffer."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(np.zeros((2, 3), np.float32), labels=self.fill(request)) for request in requests]


@pytest.mark.parametrize("policy", [Reusing, Viewing, OnTorch, Labelling])
def test_a_buffer_that_answers_several_requests_of_a_batch_is_refused(policy: type[Reusing]) -> None:
    with pytest.raises(PolicyError, match=r"base/0/0 and .*base/1/0 with one and the same array"):
        ask_all(policy(), Batching(4, wait_seconds=1), 3)


def test_a_buffer_that_is_used_again_in_the_next_batch_changes_no_answer() -> None:
    answers, _ = ask_all(Reusing(), Batching(1), 3)  # one after the other, while earlier answers wait to be used
    assert [answer.reply.actions[0, 0] for answer in answers] == [0, 1, 2]
    answers, _ = ask_all(OneArray(), Batching(4, wait_seconds=1), 3)
    assert [answer.reply.actions[0, 0] for answer in answers] == [0, 1, 2]


def load_of(policy: Echo, batching: Batching, envs: int, times: int = 1) -> Load:
    async def run() -> Load:
        async with Batcher(policy, batching) as batcher:
            batcher.playing = envs
            for _ in range(times):
                await asyncio.gather(*(batcher.ask(request(env)) for env in range(envs)))
            return batcher.load()

    return asyncio.run(run())


def test_batches_are_counted_by_size_and_the_first_apart() -> None:
    load = load_of(Echo(0.01), Batching(3, wait_seconds=1), 3, times=4)
    assert (load.batches, load.requests, load.held_back) == (4, 12, 0)
    assert {size: (each.batches, each.requests) for size, each in load.sizes.items()} == {4: (3, 9)}
    assert load.seconds == pytest.approx(load.first + load.sizes[4].seconds)
    assert load.seconds >= 0.04


def test_requests_that_a_full_batch_leaves_behind_are_counted() -> None:
    load = load_of(Echo(0.05), Batching(1), 4)
    assert (load.batches, load.requests, load.held_back) == (4, 4, 3)
    assert load.queued >= 0.05 + 0.1 + 0.15
    assert {size: each.batches for size, each in load.sizes.items()} == {1: 3}


class Deliberate(Echo):
    """Sets ``entered`` at a request, and answers once ``released`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.released = threading.Event(), threading.Event()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.entered.set()
        assert self.released.wait(20)
        return super().act(requests)


def test_a_batch_that_is_under_way_counts_for_its_seconds() -> None:
    async def run() -> tuple[Load, Load]:
        policy = Deliberate()
        async with Batcher(policy, Batching(1)) as batcher:
            batcher.playing = 1
            answer = asyncio.create_task(batcher.ask(request(0)))
            await asyncio.to_thread(policy.entered.wait, 20)
            early = batcher.load()
            policy.released.set()
            await answer
            return early, batcher.load()

    early, late = asyncio.run(run())
    assert (early.batches, late.batches) == (0, 1)
    assert 0 < early.seconds < late.seconds


class Losing(Echo):
    """A client of a process that is dead at its second request, and alive again at the next."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().act(requests)
        if len(self.batches) == 2:
            raise PolicyLost("the server was restarted")
        return replies


@pytest.mark.parametrize("stateful", [True, False])
def test_a_loss_reaches_episodes_under_way_alone(stateful: bool) -> None:
    async def ask(batcher: Batcher, env: int, chunk: int) -> str:
        try:
            answer = await batcher.ask(replace(request(env), chunk=chunk))
        except PolicyLost as lost:
            return str(lost)
        return f"answer {answer.reply.actions[0, 0]:g}"

    async def run() -> list[str]:
        policy = Losing()
        policy.stateful = stateful
        async with Batcher(policy, Batching(4, wait_seconds=5)) as batcher:
            batcher.playing = 2
            await asyncio.gather(ask(batcher, 0, 0), ask(batcher, 1, 0))
            first = await asyncio.gather(ask(batcher, 0, 1), ask(batcher, 2, 0))
            batcher.playing = 1
            return [*first, await ask(batcher, 1, 1), await ask(batcher, 1, 0), await ask(batcher, 1, 1)]

    lost, second = ("the server was restarted",) * 2 if stateful else ("answer 0", "answer 1")
    assert asyncio.run(run()) == [lost, "answer 2", second, "answer 1", "answer 1"]


def test_the_load_of_replicas_is_that_of_one_that_is_busy_as_they_are_on_average() -> None:
    busy = Load(
        batches=3,
        requests=7,
        seconds=6.0,
        queued=1.0,
        held_back=1,
        first=2.0,
        sizes={2: SizeLoad(1, 2, 1.0), 4: SizeLoad(1, 3, 3.0)},
    )
    idle = Load(batches=2, requests=3, seconds=2.0, queued=0.5, first=1.0, sizes={2: SizeLoad(1, 2, 1.0)})
    assert side_by_side([busy]) == busy
    assert side_by_side([busy, idle]) == Load(
        batches=5,
        requests=10,
        seconds=4.0,
        queued=1.5,
        held_back=1,
        first=1.5,
        sizes={2: SizeLoad(2, 4, 1.0), 4: SizeLoad(1, 3, 1.5)},
    )
