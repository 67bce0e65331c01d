"""A policy for the kit's sweeps: random steps, episodes cut short, and kills that fall while the driver is at a given activity."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.suite import Suite
from ...envs.api import Needs
from ...envs.parity import sample_actions
from ...policies.api import Policy, Reply, Request
from ...results.ledger import Ledger
from ...results.run_files import appearing
from .. import plan
from ..children.line import WorkerLine
from ..workers import Worker

#: Environment variable: the file of the kills that are to fall, a target and a driver's activity a line; without it there are none.
KILLS = "VLARIG_CONTRACT_KILLS"

#: Rows of a reply at least, for protocols that combine overlapping chunks.
HORIZON = 16

#: Seconds between two kills; and for which the policy thinks while kills are to come, so that the sweep lasts.
GAP, THINKING = 0.1, 0.03

#: Seconds for which an activity is awaited before any other will do.
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


class RandomStorm(Policy):
    """Random steps (:func:`~vlarig.envs.parity.sample_actions`) from the request's own seed, of an observation with images.

    Args:
        steps: Steps after which every suite's episodes end.
    """

    name = "random-storm"
    revision = "2"
    needs = Needs(images=True)
    horizon = HORIZON
    stateful = False

    def __init__(self, steps: int) -> None:
        load = plan.load_suite

        def shortened(name: str) -> Suite:
            suite = load(name)
            cut = [replace(each, step_limit=steps, task_limits={}, repeats=1) for each in suite.protocols]
            return replace(suite, protocols=tuple(cut))

        plan.load_suite = shortened  # a policy is made before the planning
        self._storm = Storm(Path(os.environ[KILLS])) if KILLS in os.environ else None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        with self._storm.activity.during("policy") if self._storm else contextlib.nullcontext():
            time.sleep(THINKING if self._storm and self._storm.rages else 0.0)
            return [Reply(sample_actions(each.embodiment, np.random.default_rng(each.seed), HORIZON)) for each in requests]


class Storm:
    """Kills the driver that it is made in, its launcher and its simulators, each once and during its activity.

    A kill is taken off the file just before it falls, so that the next driver goes on with the rest.
    """

    def __init__(self, kills: Path) -> None:
        self.activity = DriverActivity()
        self.rages = True
        self._kills = kills
        threading.Thread(target=self._rage, name="storm", daemon=True).start()

    def _rage(self) -> None:
        while kills := self._kills.read_text().splitlines():
            time.sleep(GAP)
            target, activity = kills[0].split()
            self.activity.wait_for(activity)
            victim = self._victim(target, activity)
            if victim is not None:
                with appearing(self._kills) as draft:
                    draft.write_text("".join(f"{line}\n" for line in kills[1:]))
                os.kill(victim, signal.SIGKILL)
        self.rages = False

    def _victim(self, target: str, activity: str) -> int | None:
        if target == "driver":
            return os.getpid()
        if target == "launcher":
            return next((pid for pid in children(os.getpid()) if is_launcher(pid)), None)
        worker = self.activity.worker(activity)
        return None if worker is None else worker.pid
