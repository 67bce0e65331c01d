"""The storm inside a driver: it watches the driver's activity, and strikes the blows of its schedule one after the other.

It changes only the driver's process, without changing the product: the simulators' adapters are the unruly ones of
:mod:`chaos.unruly`, and timeouts are short.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from chaos.blows import Schedule
from chaos.settings import Settings
from chaos.strikes import aim
from vlarig.benchmarks.suite import Patience, Suite
from vlarig.envs import backoff
from vlarig.harness import plan, workers
from vlarig.harness.simulation.worker import die_with_parent
from vlarig.harness.workers import Worker
from vlarig.results.ledger import Ledger

#: Seconds for which a blow waits for its moment before it falls at any other.
LONGEST_WAIT = 10.0


class Storm:
    """Blows on the driver that it lives in, its workers, their launcher, and all that they share.

    Args:
        folder: Folder of the storm: its schedule and its settings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.load_from(folder)
        self.schedule = Schedule(folder)
        self.random = random.Random(os.getpid())
        self.workers: list[Worker] = []
        self._active: Counter[str] = Counter()
        self._worker_at: dict[str, Worker] = {}
        self._watch()
        self._lose_patience()
        faulthandler.register(signal.SIGUSR1)
        die_with_parent()  # an ended campaign leaves no process behind
        threading.Thread(target=self._rage, name="storm", daemon=True).start()

    @contextlib.contextmanager
    def during(self, moment: str, worker: Worker | None = None) -> Iterator[None]:
        """Mark the driver's current activity."""
        self._active[moment] += 1
        if worker is not None:
            self._worker_at[moment] = worker
        try:
            yield
        finally:
            self._active[moment] -= 1

    def worker(self, moment: str) -> Worker | None:
        """The worker that a blow at that moment hits."""
        return self._worker_at.get(moment) or (self.random.choice(self.workers) if self.workers else None)

    def _rage(self) -> None:
        while blows := self.schedule.to_come():
            blow = blows[0]
            time.sleep(self.random.uniform(*self.settings.gap))
            self._await(blow.moment)
            strike = aim(blow, self)
            if strike is not None:
                self.schedule.cross_out()
                strike()

    def _await(self, moment: str) -> None:
        deadline = time.monotonic() + LONGEST_WAIT
        while moment != "any" and not self._active[moment] and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(self.random.uniform(0, 0.02 if moment == "reset" else 0.002))

    def _watch(self) -> None:
        begin, start, step, write = Worker.__aenter__, Worker.start, Worker.step, Ledger.write_episode

        async def watched_begin(worker: Worker) -> Worker:
            self.workers.append(worker)
            worker.factory._memory_bytes = self.settings.memory
            return await begin(worker)

        async def watched_start(worker: Worker, *arguments: Any) -> Any:
            with self.during("reset", worker):
                return await start(worker, *arguments)

        async def watched_step(worker: Worker, *arguments: Any) -> Any:
            with self.during("step", worker):
                return await step(worker, *arguments)

        def watched_write(ledger: Ledger, record: Any) -> bool:
            with self.during("commit"):
                return write(ledger, record)

        Worker.__aenter__, Worker.start, Worker.step = watched_begin, watched_start, watched_step
        Ledger.write_episode = watched_write

    def _lose_patience(self) -> None:
        settings, load = self.settings, plan.load_suite
        patience = Patience(settings.load, settings.reset, settings.step)

        def impatient(name: str) -> Suite:
            suite = load(name)
            return replace(suite, adapter=f"chaos.unruly:{suite.adapter}", patience=patience)

        plan.load_suite = impatient
        workers.START_MARGIN = settings.margin
        backoff.FIRST_PAUSE, backoff.LONGEST_PAUSE = 0.1, 1.0

    def landed(self, blow: Any) -> Any:
        """What a blow calls when it hits."""
        return partial(self.schedule.note_landed, blow)
