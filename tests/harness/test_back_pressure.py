"""When the policy or the disk is slow, simulators wait: nothing piles up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.harness import Rollouts, evaluate
from vlarig.harness.machines.fleets import LocalFleet
from vlarig.harness.sinks import MOST_WAITING, LedgerSink, Transition
from vlarig.policies.api import Reply, Request
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt


class Pausing(ImageReader):
    """Answers as many batches of at most four as its test allows."""

    def __init__(self) -> None:
        super().__init__(8)
        self.may_answer = threading.Semaphore(0)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.may_answer.acquire()
        return super().act(requests)


class Steps:
    """Counts the chunks that were simulated."""

    def __init__(self) -> None:
        self.count = 0

    async def emit(self, transition: Transition) -> None:
        self.count += 1

    async def fault(self, attempt: Attempt) -> None:
        raise AssertionError(attempt)


def settled(count) -> int:
    """The value of ``count()`` when it no longer grows."""
    last = -1
    while last != count():
        last = count()
        time.sleep(0.5)
    return last


def test_envs_simulate_no_further_than_the_policy_has_answered(toy_home: Path) -> None:
    policy, steps = Pausing(), Steps()
    with Rollouts({"toy": 16}, policy, fleet=LocalFleet(2), batch=4, sinks=[steps]) as rollouts:
        collecting = threading.Thread(target=rollouts.collect, args=[3])
        collecting.start()
        try:
            for answered in (1, 2, 3):
                policy.may_answer.release()
                deadline = time.monotonic() + 30
                while steps.count < sum(policy.batches[:answered]) or len(policy.batches) < answered:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                assert settled(lambda: steps.count) == sum(policy.batches)
        finally:
            policy.may_answer.release(1000)
            collecting.join()
    assert steps.count == 3 * 16
    assert max(policy.batches) == 4


@pytest.mark.usefixtures("toy_home")
def test_a_slow_disk_slows_the_sweep_and_queues_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarig.harness.sinks.MOST_WAITING", 2)
    most = 0
    write, queue = Ledger.write_episode, LedgerSink._write

    async def watched(sink, *arguments):
        nonlocal most
        await queue(sink, *arguments)
        most = max(most, len(sink._writes))

    def slowly(ledger, record):
        time.sleep(0.05)
        return write(ledger, record)

    monkeypatch.setattr(LedgerSink, "_write", watched)
    monkeypatch.setattr(Ledger, "write_episode", slowly)
    evaluation = evaluate("toy", ImageReader(), workers=2, num_envs=16, episodes=6)
    assert evaluation.complete
    assert len(evaluation.records()) == 6 * len(TOY_SUITE.tasks)
    assert most == 2


def test_a_write_that_fails_reaches_those_who_wait_for_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        with Ledger.create(tmp_path) as ledger:
            async with LedgerSink(ledger) as sink:
                attempt = Attempt("a/b@1/c/d/0/0", 1, "crash", "", "worker-0")
                await asyncio.gather(*(sink.fault(attempt) for _ in range(MOST_WAITING)))
                monkeypatched = [asyncio.create_task(sink.fault(attempt)) for _ in range(2 * MOST_WAITING)]
                await asyncio.sleep(0)
                ledger._connection.execute("DROP TABLE attempts")
                await asyncio.gather(*monkeypatched)

    with pytest.raises(Exception, match="no such table"):
        asyncio.run(scenario())


def test_leaving_while_the_last_write_ends_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        written.set_result(None)
        monkeypatch.setattr(loop, "run_in_executor", lambda *_: written)
        with Ledger.create(tmp_path) as ledger:
            async with LedgerSink(ledger) as sink:
                await sink.fault(Attempt("a/b@1/c/d/0/0", 1, "crash", "", "worker-0"))

    asyncio.run(scenario())
