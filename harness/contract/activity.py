"""What a driver is doing, seen from within: it resets or steps an env, acts, or commits an episode."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...results.ledger import Ledger
from ..children.line import WorkerLine
from ..workers import Worker

#: Seconds for which a activity is awaited before any other will do.
LONGEST_WAIT = 10.0


class DriverActivity:
    """The activity of the driver that this is made in, and its workers."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._active: Counter[str] = Counter()
        self._worker_at: dict[str, Worker] = {}
        self._watch()

    @contextlib.contextmanager
    def during(self, activity: str, worker: Worker | None = None) -> Iterator[None]:
        """Mark the driver's current activity: ``reset``, ``step``, ``policy`` or ``commit``."""
        self._active[activity] += 1
        if worker is not None:
            self._worker_at[activity] = worker
        try:
            yield
        finally:
            self._active[activity] -= 1

    def worker(self, activity: str) -> Worker | None:
        """The worker that is busy with the activity, or was last; any where none was."""
        return self._worker_at.get(activity) or (random.choice(self.workers) if self.workers else None)

    def wait_for(self, activity: str) -> None:
        """Wait until the driver is within the activity; ``any`` is every activity."""
        deadline = time.monotonic() + LONGEST_WAIT
        while activity != "any" and not self._active[activity] and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(random.uniform(0, 0.02 if activity == "reset" else 0.002))

    def began(self, worker: Worker) -> None:
        """A worker begins."""
        self.workers.append(worker)

    def _watch(self) -> None:
        begin, start, step, write = Worker.__aenter__, WorkerLine.start, WorkerLine.step, Ledger.write_episode

        async def watched_begin(worker: Worker) -> Worker:
            self.began(worker)
            return await begin(worker)

        async def watched_start(line: WorkerLine, *arguments: Any) -> Any:
            with self.during("reset", self._worker_on(line)):
                return await start(line, *arguments)

        async def watched_step(line: WorkerLine, *arguments: Any) -> Any:
            with self.during("step", self._worker_on(line)):
                return await step(line, *arguments)

        def watched_write(ledger: Ledger, record: Any) -> bool:
            with self.during("commit"):
                return write(ledger, record)

        classes: tuple[Any, Any, Any] = Worker, WorkerLine, Ledger
        classes[0].__aenter__ = watched_begin
        classes[1].start, classes[1].step = watched_start, watched_step
        classes[2].write_episode = watched_write

    def _worker_on(self, line: WorkerLine) -> Worker | None:
        return next((worker for worker in self.workers if worker.line is line), None)


def children(pid: int) -> list[int]:
    """Living processes that were started by ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return found


def is_launcher(pid: int) -> bool:
    """Whether the process starts a driver's workers."""
    with contextlib.suppress(OSError):
        return b"launcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
