"""What a sweep has done so far: a sink that counts, for the display, the log and programs alike."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ...envs.messages import ENV_ERROR
from ...policies.batching import Load
from ...results.records import Attempt
from ...results.tables import Tally
from ..engine import Sink, Transition
from .account import Account

#: Seconds of the past by which the present rate is judged.
RATE_WINDOW = 60.0

#: Seconds between two looks at what the slots do.
LOOK_SECONDS = 0.2


@dataclass
class _Play:
    """The suite that is being played: since when, by how many since when, and what had been used before."""

    suite: str
    workers: int
    slots: int
    load: Callable[[], Load]
    since: float
    sized: float
    looked: float
    process_cpu: float
    loop_cpu: float


@dataclass
class Progress:
    """Counts episodes, steps and slot time over a session.

    Attributes:
        tasks: Suite and task to its counts; what earlier sessions finished is in them from the start.
        workers: Simulator processes.
        accounts: Suite to where its time went in this session.
        steps: Rows executed in this session.
        episodes: Episodes finished in this session.
        faults: Failed attempts of this session.
        last_fault: The latest of them.
    """

    tasks: dict[tuple[str, str], Tally]
    workers: int
    accounts: dict[str, Account] = field(default_factory=dict)
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

    def begin(self, suite: str, workers: int, slots: int, starting: float = 0.0, load: Callable[[], Load] = Load) -> None:
        """A suite's episodes are played from now on; to be called, as all of this, from the event loop's thread.

        Args:
            suite: Name of the suite.
            workers: Simulator processes.
            slots: Slots in all.
            starting: Seconds that it took until the workers were up.
            load: Tells what the policy was asked so far.
        """
        self.end()
        self.workers = workers
        self.accounts[suite] = Account(starting=starting)
        now = time.monotonic()
        self._play = _Play(suite, workers, slots, load, now, now, now, time.process_time(), time.thread_time())

    def resize(self, workers: int, slots: int) -> None:
        """From now on there are so many workers and slots: some joined."""
        play = self._play
        if play is not None and (workers, slots) != (play.workers, play.slots):
            self.account()
            self.workers, play.workers, play.slots = workers, workers, slots

    def end(self) -> None:
        """The suite that was played is done with."""
        self.account()
        self._play = None

    def account(self) -> Account | None:
        """The account of the suite that is being played, brought up to date."""
        play = self._play
        if play is None:
            return None
        account = self.accounts[play.suite]
        now = time.monotonic()
        account.playing = now - play.since
        account.worker_seconds += (now - play.sized) * play.workers
        account.slot_seconds += (now - play.sized) * play.slots
        play.sized = now
        # A slot that had no work when it was looked at may have had some shortly before, which is counted already.
        account.idle = min(account.idle, max(0.0, account.slot_seconds - account.played - account.saving))
        account.driver_cpu = time.process_time() - play.process_cpu
        account.loop_cpu = time.thread_time() - play.loop_cpu
        account.load = play.load()
        return account

    def look(self, resetting: int, without_work: int, occupied: int) -> None:
        """Take note of what slots and workers do now, as what they did since the last look.

        Args:
            resetting: How many slots start an episode.
            without_work: How many slots have no episode left.
            occupied: How many workers have a request to carry out.
        """
        play = self._play
        if play is None:
            return
        account, now = self.accounts[play.suite], time.monotonic()
        passed, play.looked = now - play.looked, now
        account.idle += without_work * passed
        account.reset += resetting * passed
        account.occupied += occupied * passed
        account.looks += 1
        account.late += max(0.0, passed - LOOK_SECONDS)

    async def emit(self, transition: Transition) -> None:
        """Count a chunk, and with an episode's last the episode."""
        episode, seconds = transition.episode, transition.seconds
        passed = sum(seconds.values())
        if self._play is None:
            self.begin(episode.suite, self.workers, 0)
            assert self._play is not None
            self._play.since -= passed
            self._play.sized -= passed
        account = self.accounts[self._play.suite]
        account.simulate += seconds["simulate"]
        account.render += seconds["render"]
        account.policy += seconds["policy"]
        account.wait += seconds["wait"]
        account.chunks += 1
        account.steps += len(transition.result.rows)
        self.steps += len(transition.result.rows)
        now = time.monotonic()
        if self._failures and max(self._failures.get(name, 0.0) for name in (transition.worker, episode.key)) > now - passed:
            account.recovering += seconds["wait"]
        if not transition.result.over:
            return
        self._failures.pop(episode.key, None)
        self.tasks[episode.suite, episode.task] += Tally(0, finished=1, successes=int(succeeded(transition)))
        account.episodes += 1
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
        # A simulator that died took the episodes of all its slots along, one that raised an error this episode alone.
        self._failures[attempt.key if attempt.kind == ENV_ERROR else attempt.worker] = time.monotonic()
        account = self.accounts.get(suite)
        if account is not None:
            account.attempts += 1
            account.given_up += attempt.gave_up
        if attempt.gave_up:
            self._failures.pop(attempt.key, None)
            self.tasks[suite, task] += Tally(0, errors=1)

    def commonest_fault(self) -> tuple[Attempt, int] | None:
        """The latest of the failed attempts that said what most of them said, and their number; ``None`` where none was given up."""
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

    def total(self) -> Account:
        """The accounts of all suites together."""
        self.account()
        return sum(self.accounts.values(), Account())

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
    """A sink before another one, that counts the seconds for which that keeps its slots waiting.

    Args:
        sink: The other one.
        progress: Where they are counted.
    """

    def __init__(self, sink: Sink, progress: Progress) -> None:
        self._sink = sink
        self._progress = progress

    async def emit(self, transition: Transition) -> None:
        """Hand on a chunk."""
        began = time.perf_counter()
        await self._sink.emit(transition)
        self._progress.accounts[transition.episode.suite].saving += time.perf_counter() - began

    async def fault(self, attempt: Attempt) -> None:
        """Hand on a failed attempt."""
        await self._sink.fault(attempt)


def succeeded(transition: Transition) -> bool:
    """Whether an episode that ended with this chunk is a success by its protocol's own rule."""
    protocol = transition.episode.protocol
    return bool(transition.result.snapshot.outcome.under(protocol.success_rule, protocol.hold_steps))
