"""One record says what failures cost an episode, wherever it is played again."""

import asyncio
from typing import Any

import pytest
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.envs.api import Needs
from vlarig.envs.messages import CRASH, HANG, LOST, REFUSED, UNFIT
from vlarig.harness import durable_env
from vlarig.harness.children.supervisor import ChildLostError, SimulatorFault
from vlarig.harness.durable_env import MOST_ATTEMPTS, MOST_LOSSES, GivenUpError, Losses
from vlarig.harness.engine import Engine, EpisodeQueue
from vlarig.policies.batching import Batcher, Batching
from vlarig.results.records import Attempt

KEY = "toy/standard@1/reach_red/default/0/0"


def charge(kinds: list[str]) -> tuple[list[Attempt], str]:
    """The failed attempts that failures come to, and the sentence with which the episode is given up; empty where it is not."""
    noted: list[Attempt] = []

    async def note(attempt: Attempt) -> None:
        noted.append(attempt)

    async def run() -> str:
        losses = Losses(note)
        for number, kind in enumerate(kinds):
            try:
                await losses.charge(KEY, f"worker-{number % 2}", kind, f"reason {number}")
            except GivenUpError as error:
                assert number == len(kinds) - 1
                return str(error)
        return ""

    given_up = asyncio.run(run())
    return noted, given_up


def test_attempts_on_several_workers_add_up() -> None:
    attempts, given_up = charge([CRASH, HANG, CRASH])
    assert [(attempt.number, attempt.kind, attempt.worker, attempt.gave_up) for attempt in attempts] == [
        (1, CRASH, "worker-0", False),
        (2, HANG, "worker-1", False),
        (MOST_ATTEMPTS, CRASH, "worker-0", True),
    ]
    assert given_up == f"{KEY} failed 3 times; the last time: reason 2"


def test_losses_cost_nothing_until_they_are_too_many() -> None:
    assert charge([LOST] * MOST_LOSSES) == ([], "")
    (attempt,), given_up = charge([LOST] * (MOST_LOSSES + 1))
    assert (attempt.kind, attempt.gave_up, given_up) == (CRASH, False, "")
    assert attempt.message == "it was lost 11 times by deaths that are charged to no episode; the last time: reason 10"
    attempts, given_up = charge([LOST] * (MOST_LOSSES + 1) * MOST_ATTEMPTS)
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert given_up


def test_data_that_no_simulator_can_play_are_the_last_attempt() -> None:
    (attempt,), given_up = charge([UNFIT])
    assert attempt.gave_up
    assert given_up


def test_a_refusal_is_charged_to_no_episode() -> None:
    assert charge([REFUSED] * MOST_ATTEMPTS) == ([], "")


def test_an_episode_that_is_over_leaves_no_record() -> None:
    async def run() -> None:
        losses = Losses()
        for _ in range(2 * MOST_ATTEMPTS):
            await losses.charge(KEY, "worker-0", CRASH, "reason")
            losses.forget(KEY)
        for _ in range(MOST_ATTEMPTS - 1):
            await losses.charge(KEY, "worker-0", CRASH, "reason")
        with pytest.raises(GivenUpError):
            await losses.charge(KEY, "worker-0", CRASH, "reason")
        await losses.charge(KEY, "worker-0", CRASH, "reason")  # given up, it begins anew

    asyncio.run(run())


class LostOnce:
    """A worker whose machine is lost during its first request and comes back; the next request finds the data unfit."""

    name, number = "machine/worker-0", 0

    def __init__(self) -> None:
        self.absence: ChildLostError | None = None
        self._requests = 0

    async def running(self) -> "LostOnce":
        if self.absence is not None:
            raise self.absence
        return self

    async def found(self) -> bool:
        self.absence = None
        return True

    async def start(self, *_: object) -> None:
        self._requests += 1
        if self._requests > 1:
            raise SimulatorFault(UNFIT, "the end")
        self.absence = ChildLostError("the machine is away")
        raise SimulatorFault(LOST, "the machine is away")


class Faults:
    """A sink that keeps failed attempts."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    async def emit(self, _: object) -> None:
        raise AssertionError

    async def fault(self, attempt: Attempt) -> None:
        self.kinds.append(attempt.kind)


def test_a_lost_machine_is_one_loss_of_the_episode_that_ran_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_env, "MOST_LOSSES", 1)
    faults, worker = Faults(), LostOnce()
    workers: list[Any] = [worker]

    async def run() -> None:
        batcher = Batcher(ImageReader(), Batching(1))
        engine = Engine(workers, 1, TOY_SUITE.embodiment, Needs(), batcher, 0, [faults])
        await engine.sweep(EpisodeQueue(TOY_SUITE.episodes(per_task=1)[:1]))

    asyncio.run(run())
    assert faults.kinds == [UNFIT]
