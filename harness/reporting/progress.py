"""The progress of a sweep: a sink that counts, for the display, the log and programs."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ...envs.messages import CRASH, ENV_ERROR, HANG, MEMORY
from ...policies.member_queue import Load
from ...results.records import Attempt
from ...results.tables import Tally
from ..sinks import Sink, Transition
from .events import TimeBreakdown

#: Seconds over which the present rate is measured.
RATE_WINDOW = 60.0

#: Seconds between two samples of the envs' activities.
LOOK_SECONDS = 0.2


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
        steps: Steps executed in this session.
        episodes: Episodes finished in this session.
        faults: Failed attempts of this session.
        last_fault: The latest of them.
    """

    tasks: dict[tuple[str, str], Tally]
    workers: int
    breakdowns: dict[str, TimeBreakdown] = field(default_factory=dict)
    steps: int = 0
    episodes: int = 0
    faults: int = 0
    last_fault: Attempt | None = None

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._play: _Play | None = None
        self._finishes: deque[float] = deque()
        self._failures: dict[str, float] = {}
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], Attempt] = {}

    def begin(self, suite: str, workers: int, num_envs: int, starting: float = 0.0, load: Callable[[], Load] = Load) -> None:
        """A suite's episodes are played from now on; call this, like all methods, from the event loop's thread.

        ``starting`` is how many seconds it took until the workers were up; ``load`` returns the policy's load so far.
        """
        self.workers = workers
        self.breakdowns[suite] = TimeBreakdown(starting=starting)
        now = time.monotonic()
        self._play = _Play(suite, workers, num_envs, load, now, now, now, time.process_time(), time.thread_time())

    def resize(self, workers: int, num_envs: int) -> None:
        """Set the numbers of workers and envs from now on: some joined."""
        self.breakdown()
        assert self._play is not None
        self.workers, self._play.workers, self._play.num_envs = workers, workers, num_envs

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

    def look(self, resetting: int, without_work: int, occupied: int, died: int) -> None:
        """Count envs that start an episode or have none left, and workers that have a request to carry out or died.

        They count for the time since the last sample.
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
        self.steps += len(transition.result.steps)
        now = time.monotonic()
        if self._failures and max(self._failures.get(name, 0.0) for name in (transition.worker, episode.key)) > now - passed:
            breakdown.recovering += seconds["wait"]
        if not transition.result.over:
            return
        self._failures.pop(episode.key, None)
        self.tasks[episode.suite, episode.task] += Tally(0, finished=1, successes=int(bool(transition.success)))
        breakdown.episodes += 1
        self.episodes += 1
        self._finishes.append(now)

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt, and with an episode's last the error."""
        self.faults += 1
        self.last_fault = attempt
        reason = attempt.kind, attempt.message
        self._reasons[reason] += 1
        self._examples[reason] = attempt
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
        ((reason, times),) = self._reasons.most_common(1)
        return self._examples[reason], times

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._began

    @property
    def left(self) -> int:
        """Episodes that are neither finished nor given up."""
        return self.counts().missing

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
        return self.left / rate if rate else None


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
