"""The progress of a sweep: sinks that count it, for the display, and write it as events, with samples of what envs and workers do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ...envs.messages import CRASH, ENV_ERROR, HANG, MEMORY
from ...policies.member_queue import Load
from ...results.records import Attempt
from ...results.tables import Tally
from ..engine import Engine
from ..sinks import EpisodeSink, EpisodeSoFar, Sink, Transition
from ..workers import Worker
from .events import EpisodeEvent, ProgressEvent, SuiteEvent, TimeBreakdown
from .logs import EventLog

#: Seconds over which the present rate is measured.
RATE_WINDOW = 60.0

#: Seconds between two samples of the envs' activities.
LOOK_SECONDS = 0.2

#: Seconds until a suite's first event of progress, and between two, in the first hour and after it: a policy may run for a week.
FIRST_PROGRESS_SECONDS, PROGRESS_SECONDS, LATER_PROGRESS_SECONDS = 2.0, 10.0, 60.0
FIRST_HOUR = 3600.0

#: Longest message of a failed attempt that is logged; the ledger has it whole.
MOST_MESSAGE = 500


@dataclass
class _Play:
    """The suite that is being played: its workers and envs, since when, and the CPU time used before."""

    suite: str
    workers: int
    num_envs: int
    load: Callable[[], Load]
    since: float
    sized: float
    looked: float
    process_cpu: float
    loop_cpu: float


@dataclass
class Progress:
    """Counts episodes, steps and env time over a session.

    Attributes:
        tasks: Suite and task to its counts; what earlier sessions finished is in them from the start.
        workers: Simulator processes.
        breakdowns: Suite to where its time went in this session.
        attempts: Failed attempts of this session.
    """

    tasks: dict[tuple[str, str], Tally]
    workers: int
    breakdowns: dict[str, TimeBreakdown] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._play: _Play | None = None
        self._finishes: deque[float] = deque()
        self._failures: dict[str, float] = {}

    def begin(self, suite: str, workers: int, num_envs: int, starting: float = 0.0, load: Callable[[], Load] = Load) -> None:
        """A suite's episodes are played from now on; call this, like all methods, from the event loop's thread.

        ``starting`` is how many seconds it took until the workers were up; ``load`` returns the policy's load so far.
        """
        self.workers = workers
        self.breakdowns[suite] = TimeBreakdown(starting=starting)
        now = time.monotonic()
        self._play = _Play(suite, workers, num_envs, load, now, now, now, time.process_time(), time.thread_time())

    def end(self) -> TimeBreakdown:
        """The suite that was played is done with; return its breakdown."""
        breakdown = self.breakdown()
        self._play = None
        return breakdown

    def breakdown(self) -> TimeBreakdown:
        """The breakdown of the suite that is being played, brought up to date."""
        play = self._play
        assert play is not None
        breakdown = self.breakdowns[play.suite]
        now = time.monotonic()
        breakdown.playing = now - play.since
        breakdown.worker_seconds += (now - play.sized) * play.workers
        breakdown.env_seconds += (now - play.sized) * play.num_envs
        play.sized = now
        # An env that had no work when it was sampled may have had some shortly before, which is counted already.
        breakdown.idle = min(breakdown.idle, max(0.0, breakdown.env_seconds - breakdown.played - breakdown.saving))
        breakdown.driver_cpu = time.process_time() - play.process_cpu
        breakdown.loop_cpu = time.thread_time() - play.loop_cpu
        breakdown.load = play.load()
        return breakdown

    def look(self, workers: int, num_envs: int, resetting: int, without_work: int, occupied: int, died: int) -> None:
        """Take a sample, which counts for the time since the last one.

        Args:
            workers: Workers from now on; some may have joined.
            num_envs: Envs from now on.
            resetting: Envs that start an episode.
            without_work: Envs that have none left.
            occupied: Workers that have a request to carry out.
            died: Workers that died since the last sample.
        """
        play = self._play
        assert play is not None
        breakdown, now = self.breakdowns[play.suite], time.monotonic()
        passed, play.looked = now - play.looked, now
        breakdown.idle += without_work * passed
        breakdown.reset += resetting * passed
        breakdown.occupied += occupied * passed
        breakdown.deaths += died
        breakdown.looks += 1
        breakdown.late += max(0.0, passed - LOOK_SECONDS)
        self.breakdown()
        self.workers, play.workers, play.num_envs = workers, workers, num_envs

    async def emit(self, transition: Transition) -> None:
        """Count a chunk, and with an episode's last the episode."""
        episode, seconds = transition.episode, transition.seconds
        passed = sum(seconds.values())
        breakdown = self.breakdowns[episode.suite]
        breakdown.simulate += seconds["simulate"]
        breakdown.render += seconds["render"]
        breakdown.policy += seconds["policy"]
        breakdown.wait += seconds["wait"]
        breakdown.chunks += 1
        breakdown.steps += len(transition.result.steps)
        now = time.monotonic()
        if self._failures and max(self._failures.get(name, 0.0) for name in (transition.worker, episode.key)) > now - passed:
            breakdown.recovering += seconds["wait"]
        if not transition.result.over:
            return
        self._failures.pop(episode.key, None)
        self.tasks[episode.suite, episode.task] += Tally(0, finished=1, successes=int(bool(transition.success)))
        breakdown.episodes += 1
        self._finishes.append(now)

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt, and with an episode's last the error."""
        self.attempts.append(attempt)
        suite, _, task, *_ = attempt.key.split("/")
        # A simulator that died took the episodes of all its envs along, one that raised an error this episode alone.
        self._failures[attempt.key if attempt.kind == ENV_ERROR else attempt.worker] = time.monotonic()
        if attempt.kind in (CRASH, HANG, MEMORY):
            self.breakdowns[suite].deaths -= 1  # that death is an attempt too
        if attempt.gave_up:
            self._failures.pop(attempt.key, None)
            self.tasks[suite, task] += Tally(0, errors=1)

    def commonest_fault(self) -> tuple[Attempt, int] | None:
        """The latest failed attempt with the commonest message, and their number; ``None`` where no episode was given up."""
        if not self.counts().errors:
            return None
        (((kind, message), times),) = Counter((each.kind, each.message) for each in self.attempts).most_common(1)
        return [each for each in self.attempts if (each.kind, each.message) == (kind, message)][-1], times

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._began

    def counts(self) -> Tally:
        """All tasks together."""
        return sum(self.tasks.values(), Tally(0))

    def total(self) -> TimeBreakdown:
        """The breakdowns of all suites together."""
        if self._play is not None:
            self.breakdown()
        return sum(self.breakdowns.values(), TimeBreakdown())

    def episodes_per_second(self) -> float:
        """The present rate, over the last :data:`RATE_WINDOW` seconds."""
        now = time.monotonic()
        while self._finishes and self._finishes[0] < now - RATE_WINDOW:
            self._finishes.popleft()
        return len(self._finishes) / max(min(self.elapsed, RATE_WINDOW), 1e-9)

    def seconds_left(self) -> float | None:
        """Time that the rest will take at the present rate; ``None`` while there is no rate."""
        rate = self.episodes_per_second()
        return self.counts().missing / rate if rate else None

    def steps_per_second(self) -> float:
        """The mean rate of this session."""
        return sum(each.steps for each in self.breakdowns.values()) / max(self.elapsed, 1e-9)


class SavingTime:
    """A sink before another one, that counts the seconds for which the other keeps its envs waiting."""

    def __init__(self, sink: Sink, progress: Progress) -> None:
        self._sink = sink
        self._progress = progress

    async def emit(self, transition: Transition) -> None:
        began = time.perf_counter()
        await self._sink.emit(transition)
        self._progress.breakdowns[transition.episode.suite].saving += time.perf_counter() - began

    async def fault(self, attempt: Attempt) -> None:
        await self._sink.fault(attempt)


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work``, which does not end by itself, while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Reporter(EpisodeSink):
    """Writes events about episodes, attempts, workers and progress to an event log.

    ``progress`` is a sink of its own, to be called before this one.
    """

    def __init__(self, event_log: EventLog, progress: Progress) -> None:
        super().__init__()
        self._event_log = event_log
        self._progress = progress
        self._failed: Counter[str] = Counter()

    async def finish(self, last: Transition, episode: EpisodeSoFar) -> None:
        key = last.episode.key
        self._event_log.write(
            EpisodeEvent(
                key=key,
                worker=last.worker,
                attempt=self._failed.pop(key, 0) + 1,
                success=bool(last.success),
                steps=last.result.snapshot.step,
                chunks=len(episode.actions),
                spent=episode.seconds,
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
            without_work, died = len(engine.envs) - engine.batcher.playing, workers.look()
            self._progress.look(len(workers.pids), len(engine.envs), activities["reset"], without_work, len(occupied), died)
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
                self._event_log.note(f"{name} died (process {before})")
            if before != now and now is not None:
                self._event_log.note(f"{name} started (process {now})")
        return died

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
        steps_per_second=progress.steps_per_second(),
        seconds_left=progress.seconds_left(),
        envs=dict(activities),
        load=os.getloadavg()[0],
        suite=suite,
        breakdown=progress.breakdown(),
    )
