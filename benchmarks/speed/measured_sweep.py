"""A sweep as the scripts measure it: every slot is warm before the clock starts, everything on the disk before it stops."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlarig.benchmarks.suite import Suite
from vlarig.envs.api import Episode, Needs
from vlarig.harness.engine import Engine, Transition
from vlarig.harness.episode_queue import EpisodeQueue
from vlarig.harness.placement import local_hosts
from vlarig.harness.sinks import LedgerSink
from vlarig.harness.workplace import Workplace
from vlarig.policies.api import Policy, Reply, Request
from vlarig.policies.batching import Batcher, Batching
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt


class InstantPolicy:
    """Reads images and answers at once: sixteen small random rows, drawn beforehand."""

    name = "instant"
    revision = "1"
    needs = Needs()
    horizon = 16

    def __init__(self) -> None:
        self.actions = np.random.default_rng(0).normal(0.0, 0.1, (16, 7)).astype(np.float32)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The same for all."""
        return [Reply(self.actions)] * len(requests)


@dataclass(frozen=True)
class Cost:
    """What a sweep took.

    Attributes:
        wall: Seconds by the clock.
        cpu: Seconds of the driver's CPU, all threads.
        rows: Rows executed.
        chunks: Chunks executed.
        steady_rate: Rows a second until the first slot found no further episode: without the end, in which slots run dry.
    """

    wall: float
    cpu: float
    rows: int
    chunks: int
    steady_rate: float


class SteadyMeter(EpisodeQueue):
    """A queue, and a sink, that measures the rate for as long as there is an episode for every slot that asks."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        super().__init__(episodes)
        self._began = time.perf_counter()
        self._rows = 0
        self.rate = 0.0

    async def take(self, worker: int) -> Episode | None:
        """The next episode; the first time that there is none ends the measurement."""
        if not len(self) and not self.rate:
            self.rate = self._rows / (time.perf_counter() - self._began)
        return await super().take(worker)

    async def emit(self, transition: Transition) -> None:
        """Count a chunk's rows."""
        self._rows += len(transition.result.rows)

    async def fault(self, attempt: Attempt) -> None:
        """No attempt may fail while something is measured."""
        raise RuntimeError(str(attempt))


async def measure(suite: Suite, policy: Policy, episodes: Sequence[Episode], workers: int, slots: int) -> Cost:
    """Sweep ``episodes`` into a fresh ledger.

    Args:
        suite: Whose episodes they are.
        policy: Who plays.
        episodes: What to run.
        workers: Simulator processes.
        slots: Episodes under way in each.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with Ledger.create(run) as ledger:
            async with (
                local_hosts(Workplace.of(suite), workers, run) as hosts,
                Batcher(policy, Batching(min(64, workers * slots))) as batcher,
            ):
                for local in range(slots):
                    await asyncio.gather(*(host.start(local, episodes[0], policy.needs) for host in hosts))
                wall, cpu = time.perf_counter(), time.process_time()
                async with LedgerSink(ledger) as sink:
                    meter = SteadyMeter(episodes)
                    engine = Engine(hosts, slots, suite.embodiment, policy.needs, batcher, 0, [sink, meter])
                    await engine.sweep(meter)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            records = ledger.records()
    assert len(records) == len(episodes)
    rows, chunks = sum(record.steps for record in records), sum(len(record.chunks) for record in records)
    return Cost(wall, cpu, rows, chunks, meter.rate)
