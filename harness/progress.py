"""What a sweep has done so far: a sink that counts."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from ..results.records import Attempt
from .engine import Transition

#: Activities that slot time is divided into, in the order in which they are shown.
ACTIVITIES = ("simulate", "render", "policy", "wait")

#: Seconds of the past by which the present rate is judged.
RATE_WINDOW = 60.0


@dataclass
class TaskProgress:
    """Episodes of one task: how many there are, were finished, succeeded, and were given up."""

    expected: int
    finished: int = 0
    successes: int = 0
    errors: int = 0


@dataclass
class Progress:
    """Counts episodes, steps and slot time over a session.

    Attributes:
        tasks: Suite and task to its counts; what earlier sessions finished is in them from the start.
        workers: Simulator processes.
        seconds: Slot time of this session by activity.
        steps: Rows executed in this session.
        episodes: Episodes finished in this session.
        faults: Failed attempts of this session.
        last_fault: The latest of them.
    """

    tasks: dict[tuple[str, str], TaskProgress]
    workers: int
    seconds: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    episodes: int = 0
    faults: int = 0
    last_fault: Attempt | None = None

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._playing_since: float | None = None
        self._finishes: deque[float] = deque()

    async def emit(self, transition: Transition) -> None:
        """Count a chunk, and with an episode's last the episode."""
        if self._playing_since is None:
            self._playing_since = time.monotonic() - sum(transition.seconds.values())
        self.steps += len(transition.result.rows)
        self.seconds.update(transition.seconds)
        if not transition.result.over:
            return
        episode = transition.episode
        task = self.tasks[episode.suite, episode.task]
        success = transition.result.snapshot.outcome.under(episode.protocol.success_rule, episode.protocol.hold_rows)
        task.finished += 1
        task.successes += bool(success)
        self.episodes += 1
        self._finishes.append(time.monotonic())

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt, and with an episode's last the error."""
        self.faults += 1
        self.last_fault = attempt
        if attempt.gave_up:
            suite, _, task, *_ = attempt.key.split("/")
            self.tasks[suite, task].errors += 1

    @property
    def elapsed(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._began

    @property
    def left(self) -> int:
        """Episodes that are neither finished nor given up."""
        return sum(task.expected - task.finished - task.errors for task in self.tasks.values())

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

    def workers_busy(self) -> float:
        """Share of their time, since the first episode began, in which the workers simulated or rendered, from 0 to 1."""
        if self._playing_since is None:
            return 0.0
        worked = self.seconds["simulate"] + self.seconds["render"]
        return min(1.0, worked / (self.workers * max(time.monotonic() - self._playing_since, 1e-9)))

    def shares(self) -> dict[str, float]:
        """Share of slot time by activity, from 0 to 1."""
        total = sum(self.seconds.values())
        return {name: self.seconds[name] / total if total else 0.0 for name in ACTIVITIES}
