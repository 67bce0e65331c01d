"""The reporter of a sweep: a sink that makes events of what the engine measures, and that samples the sweep periodically."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator

from ...results.records import Attempt
from ..children.launcher import resident_bytes
from ..engine import Engine, Transition
from ..workers import Worker
from .display import running
from .event_log import EventLog
from .events import AttemptFailed, EpisodeFinished, ProgressMade, SuiteEnded, WorkerDied, WorkerStarted
from .progress import LOOK_SECONDS, Progress, succeeded
from .time_breakdown import ACTIVITIES

#: Seconds until a suite's first event of progress, and between two, in the first hour and after it: a policy may run for a week.
FIRST_PROGRESS_SECONDS, PROGRESS_SECONDS, LATER_PROGRESS_SECONDS = 2.0, 10.0, 60.0
FIRST_HOUR = 3600.0

#: Longest message of a failed attempt that is logged; the ledger has it whole.
MOST_MESSAGE = 500


class Reporter:
    """Writes events about episodes, attempts, workers and progress to an event log.

    Args:
        event_log: The event log.
        progress: The sweep's progress; a sink of its own, to be called before this one.
    """

    def __init__(self, event_log: EventLog, progress: Progress) -> None:
        self._event_log = event_log
        self._progress = progress
        self._spent: dict[int, dict[str, float]] = {}
        self._failed: Counter[str] = Counter()

    async def emit(self, transition: Transition) -> None:
        """Count a chunk; with an episode's last, write the episode's event."""
        env = transition.request.env
        if transition.request.chunk == 0:
            self._spent[env] = dict.fromkeys(ACTIVITIES, 0.0)
        spent = self._spent[env]
        for name in ACTIVITIES:
            spent[name] += transition.seconds[name]
        if not transition.result.over:
            return
        key = transition.episode.key
        self._event_log.write(
            EpisodeFinished(
                key=key,
                success=succeeded(transition),
                steps=transition.result.snapshot.step,
                chunks=transition.request.chunk + 1,
                spent=self._spent.pop(env),
                worker=transition.worker,
                attempt=self._failed.pop(key, 0) + 1,
            )
        )

    async def fault(self, attempt: Attempt) -> None:
        """Write a failed attempt's event."""
        self._failed[attempt.key] += 1
        if attempt.gave_up:
            del self._failed[attempt.key]
        self._event_log.write(
            AttemptFailed(
                key=attempt.key,
                number=attempt.number,
                kind=attempt.kind,
                message=attempt.message[:MOST_MESSAGE],
                worker=attempt.worker,
                gave_up=attempt.gave_up,
            )
        )

    @contextlib.asynccontextmanager
    async def watching(self, suite: str, engine: Engine, starting: float) -> AsyncIterator[None]:
        """Write events of a suite's workers and progress while the context lasts, and its time breakdown at the end.

        Args:
            suite: Name of the suite.
            engine: The engine that plays it; its workers are up.
            starting: Seconds that their start took.
        """
        workers = _Workers(suite, engine, self._event_log)
        self._progress.begin(suite, workers.count, len(engine.envs), starting, engine.batcher.load)
        try:
            async with running(self._watch(suite, engine, workers)):
                yield
        finally:
            breakdown = self._progress.breakdown()
            assert breakdown is not None
            self._event_log.write(SuiteEnded(suite=suite, breakdown=breakdown))
            self._progress.end()

    async def _watch(self, suite: str, engine: Engine, workers: _Workers) -> None:
        due = self._progress.elapsed + FIRST_PROGRESS_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            activities = engine.activities()
            occupied = {env.worker.name for env in engine.envs if env.activity in ("simulate", "reset")}
            self._progress.look(activities["reset"], len(engine.envs) - engine.batcher.playing, len(occupied))
            workers.look()
            self._progress.resize(workers.count, len(engine.envs))
            elapsed = self._progress.elapsed
            if elapsed >= due:
                due = elapsed + (PROGRESS_SECONDS if elapsed < FIRST_HOUR else LATER_PROGRESS_SECONDS)
                self._event_log.write(progress_event(suite, self._progress, activities))


class _Workers:
    """Watches a suite's workers for deaths and restarts."""

    def __init__(self, suite: str, engine: Engine, event_log: EventLog) -> None:
        self._suite = suite
        self._engine = engine
        self._event_log = event_log
        self._pids: dict[str, int | None] = {}
        self._away: set[str] = set()
        self.look()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._pids)

    def look(self) -> None:
        """Compare the workers with those at the last call, and write events of the changes."""
        for name, worker in {env.worker.name: env.worker for env in self._engine.envs}.items():
            self._report_absence(name, worker)
            before, now = self._pids.get(name), worker.pid
            self._pids[name] = now
            if before == now:
                continue
            if before is not None:
                self._event_log.write(WorkerDied(suite=self._suite, worker=name, pid=before))
            if now is not None:
                self._event_log.write(WorkerStarted(suite=self._suite, worker=name, pid=now))

    def _report_absence(self, name: str, worker: Worker) -> None:
        """Report when a worker is away or lost, and when it is back."""
        if worker.absence is not None and name not in self._away:
            self._away.add(name)
            self._event_log.warn(f"{worker.absence}; its episodes go to the workers that are there")
        elif worker.absence is None and name in self._away:
            self._away.discard(name)
            self._event_log.say(f"{name} is back")


def progress_event(suite: str, progress: Progress, activities: Counter[str]) -> ProgressMade:
    """How far a sweep is while it plays ``suite``."""
    breakdown, counts = progress.breakdown(), progress.counts()
    assert breakdown is not None
    return ProgressMade(
        expected=counts.expected,
        finished=counts.finished,
        successes=counts.successes,
        errors=counts.errors,
        left=progress.left,
        episodes_per_minute=60 * progress.episodes_per_second(),
        steps_per_second=progress.steps / max(progress.elapsed, 1e-9),
        seconds_left=progress.seconds_left(),
        shares=breakdown.shares(),
        workers_busy=breakdown.workers_busy,
        workers_occupied=breakdown.workers_occupied,
        policy_busy=breakdown.policy_busy,
        mean_batch=breakdown.mean_batch,
        envs=dict(activities),
        cpu=breakdown.driver_cpu / max(breakdown.playing, 1e-9),
        memory=resident_bytes(os.getpid()) or None,
        load=_machine_load(),
        suite=suite,
        breakdown=breakdown,
    )


def _machine_load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
