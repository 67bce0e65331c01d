"""What a run recorded about its speed: the sessions of its log, the failed attempts of its ledger, and its disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ...envs.messages import CRASH, HANG, MEMORY
from ...results.ledger import Ledger
from ...results.lock import lock_holder
from ...results.manifest import Manifest
from ...results.records import Attempt
from ...results.run_files import check_links
from ...results.tables import Tally, run_table
from .events import (
    AttemptFailed,
    Event,
    FilmingEnded,
    FilmingStarted,
    ProgressMade,
    SessionEnded,
    SessionStarted,
    SuiteEnded,
    SuiteStarted,
    WorkerDied,
    read_events,
)
from .time_breakdown import ACTIVITIES, TimeBreakdown

#: Events without further information about speed.
_BESIDE = ("episode_finished", "note", "warning", "worker_started", "error", "result")


@dataclass
class SessionEvidence:
    """The log of one start of the driver.

    Attributes:
        number: Its number, from 1.
        started: How it began; ``None`` where that line is lost.
        ended: How it ended; ``None`` where it still runs, or was killed.
        first: Seconds at which its first suite was started; ``None`` where it came to none.
        last: Seconds of its last event.
        suites: Name of a suite to its start.
        breakdowns: Name of a suite to where its time went, as far as it was logged.
        starting: The suite whose workers were being started at the end, if any, and since when.
        filming: Seconds that films took.
        filming_since: Since when they are being made, if they are.
        deaths: How often a worker died, by worker, without an attempt that failed by it.
        envs: The envs' activities at its last report.
        memory: Most bytes of memory that the driver held.
        loads: The machine's load averages.
    """

    number: int
    started: SessionStarted | None = None
    ended: SessionEnded | None = None
    first: float | None = None
    last: float = 0.0
    suites: dict[str, SuiteStarted] = field(default_factory=dict)
    breakdowns: dict[str, TimeBreakdown] = field(default_factory=dict)
    starting: tuple[str, float] | None = None
    filming: float = 0.0
    filming_since: float | None = None
    deaths: Counter[str] = field(default_factory=Counter)
    envs: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    loads: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Add one of its events."""
        self.last = max(self.last, event.seconds)
        match event:
            case SessionStarted():
                self.started = event
            case SessionEnded():
                self.ended = event
            case SuiteStarted():
                self.first = event.seconds if self.first is None else self.first
                self.suites[event.suite] = event
                self.starting = (event.suite, event.seconds)
            case ProgressMade():
                self.breakdowns[event.suite], self.envs, self.starting = event.breakdown, event.envs, None
                self.memory = max(self.memory, event.memory or 0)
                self.loads += [] if event.load is None else [event.load]
            case SuiteEnded():
                self.breakdowns[event.suite], self.envs, self.starting = event.breakdown, {}, None
            case WorkerDied():
                self.deaths[event.worker] += 1
            case AttemptFailed() if event.kind in (CRASH, HANG, MEMORY):
                self.deaths[event.worker] -= 1
            case FilmingStarted():
                self.filming_since = event.seconds
            case FilmingEnded() if self.filming_since is not None:
                self.filming, self.filming_since = self.filming + event.seconds - self.filming_since, None
            case _:
                pass

    @property
    def settings(self) -> Any:
        """What decides how fast it is: the user's settings and the machine."""
        if self.started is None:
            return None
        config = self.started.config
        return [config.get(name) for name in ("workers", "num_envs", "batch", "strict", "replicas", "placement", "hosts")] + [
            self.started.cores,
            self.started.host,
        ]


@dataclass(frozen=True)
class Case:
    """The sessions that are diagnosed: the latest that played, and those before it with the same settings.

    Attributes:
        sessions: The sessions, oldest first.
        left_out: Number of other sessions that logged their time.
    """

    sessions: list[SessionEvidence]
    left_out: int

    @classmethod
    def of(cls, sessions: Sequence[SessionEvidence]) -> Self | None:
        """The case to diagnose; ``None`` where no session logged its time."""
        timed = [session for session in sessions if session.breakdowns or session.starting]
        if not timed:
            return None
        played = [session for session in timed if any(breakdown.chunks for breakdown in session.breakdowns.values())]
        latest = (played or timed)[-1]
        alike = [session for session in timed if session.settings == latest.settings]
        return cls(alike, len(timed) - len(alike))

    @property
    def breakdown(self) -> TimeBreakdown:
        """Where the time of all their suites went."""
        return sum(self.by_suite().values(), TimeBreakdown())

    def by_suite(self) -> dict[str, TimeBreakdown]:
        """Where the time of each suite went."""
        together: dict[str, TimeBreakdown] = {}
        for session in self.sessions:
            for suite, breakdown in session.breakdowns.items():
                together[suite] = together.get(suite, TimeBreakdown()) + breakdown
        return together

    def started(self, suite: str) -> SuiteStarted | None:
        """How a suite was started in the session that played it longest: one that ends a run has work for few."""
        sessions = [session for session in self.sessions if suite in session.suites]
        longest = max(sessions, key=lambda session: session.breakdowns.get(suite, TimeBreakdown()).playing, default=None)
        return None if longest is None else longest.suites[suite]

    def phases(self) -> dict[str, float]:
        """The sessions' seconds, divided by what the sweep was doing."""
        total = sum(session.last for session in self.sessions)
        before = sum(session.last if session.first is None else session.first for session in self.sessions)
        under_way = sum(session.last - session.starting[1] for session in self.sessions if session.starting)
        filming = sum(
            session.filming + (0.0 if session.filming_since is None else session.last - session.filming_since)
            for session in self.sessions
        )
        breakdown = self.breakdown
        phases = {
            "preparing": before,
            "starting": breakdown.starting + under_way,
            "playing": breakdown.playing,
            "filming": filming,
        }
        return phases | {"rest": max(0.0, total - sum(phases.values()))}


@dataclass
class Evidence:
    """All that a run recorded about its speed.

    Attributes:
        run: Folder of the run.
        manifest: Its manifest.
        tally: Its episodes, counted.
        holder: The process that is writing it; ``None`` where none is.
        sessions: Its sessions; those that logged nothing are missing.
        started: Number of sessions, by the ledger.
        attempts: Its failed attempts, of all sessions.
        spent: Env seconds by activity of all finished episodes, by the ledger; empty where the log has more.
        not_understood: Lines of the log that are cut short or of another version.
        free: Bytes that are free on its disk.
        size: Bytes of its ledger.
    """

    run: Path
    manifest: Manifest
    tally: Tally
    holder: str | None
    sessions: list[SessionEvidence]
    started: int
    attempts: list[Attempt]
    spent: dict[str, float]
    not_understood: int
    free: int
    size: int


def gather(run: Path) -> Evidence:
    """The evidence of a run, whether it is finished, running or was killed."""
    check_links(run)
    manifest = Manifest.load(run)
    sessions: dict[int, SessionEvidence] = {}
    not_understood = 0
    for event in read_events(run / "logs", leave_out=_BESIDE):
        if event is None:
            not_understood += 1
        elif event.session:
            sessions.setdefault(event.session, SessionEvidence(event.session)).take(event)
    timed = any(session.breakdowns for session in sessions.values())
    with Ledger.open_read_only(run) as ledger:
        started, attempts = len(ledger.sessions()), ledger.attempts()
        records = [] if timed else ledger.records()
        size = ledger.path.stat().st_size
    return Evidence(
        run=run,
        manifest=manifest,
        tally=run_table(run).total,
        holder=lock_holder(run),
        sessions=[sessions[number] for number in sorted(sessions)],
        started=started,
        attempts=attempts,
        spent={name: sum(record.seconds.get(name, 0.0) for record in records) for name in ACTIVITIES} if records else {},
        not_understood=not_understood,
        free=shutil.disk_usage(run).free,
        size=size,
    )
