"""The reporter of a sweep: a sink that makes events of what the engine measures, and that samples the sweep periodically."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from ...results.records import Attempt
from ..engine import Engine
from ..transition import Transition
from ..workers import Worker
from .display import running
from .events import ACTIVITIES, EpisodeEvent, Note, ProgressEvent, SuiteEvent
from .logs import EventLog
from .progress import LOOK_SECONDS, Progress

#: Seconds until a suite's first event of progress, and between two, in the first hour and after it: a policy may run for a week.
FIRST_PROGRESS_SECONDS, PROGRESS_SECONDS, LATER_PROGRESS_SECONDS = 2.0, 10.0, 60.0
FIRST_HOUR = 3600.0

#: Longest message of a failed attempt that is logged; the ledger has it whole.
MOST_MESSAGE = 500


class Reporter:
    """Writes events about episodes, attempts, workers and progress to an event log.

    ``progress`` is a sink of its own, to be called before this one.
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
            EpisodeEvent(
                key=key,
                worker=transition.worker,
                attempt=self._failed.pop(key, 0) + 1,
                success=bool(transition.success),
                steps=transition.result.snapshot.step,
                chunks=transition.request.chunk + 1,
                spent=self._spent.pop(env),
            )
        )

    async def fault(self, attempt: Attempt) -> None:
        self._failed[attempt.key] += 1
        if attempt.gave_up:
            del self._failed[attempt.key]
        self._event_log.write(
            EpisodeEvent(
                key=attempt.key,
                worker=attempt.worker,
                attempt=attempt.number,
                kind=attempt.kind,
                message=attempt.message[:MOST_MESSAGE],
                gave_up=attempt.gave_up,
            )
        )

    @contextlib.asynccontextmanager
    async def watching(self, started: SuiteEvent, engine: Engine, starting: float) -> AsyncIterator[None]:
        """Write events of a suite's workers and progress while the context lasts, and its time breakdown at the end.

        The engine's workers are up; their start took ``starting`` seconds.
        """
        workers = _Workers(engine, self._event_log)
        self._progress.begin(started.suite, len(workers.pids), len(engine.envs), starting, engine.batcher.load)
        try:
            async with running(self._watch(started.suite, engine, workers)):
                yield
        finally:
            breakdown = self._progress.end()
            self._event_log.write(msgspec.structs.replace(started, state="ended", breakdown=breakdown))

    async def _watch(self, suite: str, engine: Engine, workers: _Workers) -> None:
        due = self._progress.elapsed + FIRST_PROGRESS_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            activities = engine.activities()
            occupied = {env.worker.name for env in engine.envs if env.activity in ("simulate", "reset")}
            self._progress.look(activities["reset"], len(engine.envs) - engine.batcher.playing, len(occupied), workers.look())
            self._progress.resize(len(workers.pids), len(engine.envs))
            elapsed = self._progress.elapsed
            if elapsed >= due:
                due = elapsed + (PROGRESS_SECONDS if elapsed < FIRST_HOUR else LATER_PROGRESS_SECONDS)
                self._event_log.write(_progress_event(suite, self._progress, activities))


class _Workers:
    """Watches a suite's workers for deaths and restarts.

    Attributes:
        pids: Name of a worker to its process id on its machine; ``None`` while it has none.
    """

    def __init__(self, engine: Engine, event_log: EventLog) -> None:
        self._engine = engine
        self._event_log = event_log
        self.pids: dict[str, int | None] = {}
        self._away: set[str] = set()
        self.look()

    def look(self) -> int:
        """Compare the workers with those at the last call, write notes of the changes, and return how many died."""
        died = 0
        for name, worker in {env.worker.name: env.worker for env in self._engine.envs}.items():
            self._report_absence(name, worker)
            before, now = self.pids.get(name), worker.pid
            self.pids[name] = now
            if before != now and before is not None:
                died += 1
                self._note(f"{name} died (process {before})")
            if before != now and now is not None:
                self._note(f"{name} started (process {now})")
        return died

    def _note(self, text: str) -> None:
        """Write a note that the user is not shown."""
        self._event_log.write(Note(level="info", text=text))

    def _report_absence(self, name: str, worker: Worker) -> None:
        if worker.absence is not None and name not in self._away:
            self._away.add(name)
            self._event_log.warn(f"{worker.absence}; its episodes go to the workers that are there")
        elif worker.absence is None and name in self._away:
            self._away.discard(name)
            self._event_log.say(f"{name} is back")


def _progress_event(suite: str, progress: Progress, activities: Counter[str]) -> ProgressEvent:
    counts = progress.counts()
    return ProgressEvent(
        expected=counts.expected,
        finished=counts.finished,
        successes=counts.successes,
        errors=counts.errors,
        episodes_per_minute=60 * progress.episodes_per_second(),
        steps_per_second=progress.steps / max(progress.elapsed, 1e-9),
        seconds_left=progress.seconds_left(),
        envs=dict(activities),
        load=_machine_load(),
        suite=suite,
        breakdown=progress.breakdown(),
    )


def _machine_load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
