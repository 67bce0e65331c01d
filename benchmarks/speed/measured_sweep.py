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
from vlarig.harness.batching import Batcher, Batching
from vlarig.harness.engine import Engine
from vlarig.harness.episode_queue import EpisodeQueue
from vlarig.harness.placement import local_hosts
from vlarig.harness.sinks import LedgerSink
from vlarig.harness.workplace import Workplace
from vlarig.policies.api import Policy, Reply, Request
from vlarig.results.ledger import Ledger


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
    """What a sweep took: seconds by the clock and of the driver's CPU (all threads), rows and chunks."""

    wall: float
    cpu: float
    rows: int
    chunks: int


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
                    engine = Engine(hosts, slots, suite.embodiment, policy.needs, batcher, 0, [sink])
                    await engine.sweep(EpisodeQueue(episodes))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            records = ledger.records()
    assert len(records) == len(episodes)
    return Cost(wall, cpu, sum(record.steps for record in records), sum(len(record.chunks) for record in records))
