"""What a run left behind about its speed: the sessions of its log, the failed attempts of its ledger, and its disk."""

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
from .account import ACTIVITIES, Account
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

#: Events that say nothing about speed that the others do not say.
_BESIDE = ("episode_finished", "note", "warning", "worker_started", "error", "result")


@dataclass
class SessionEvidence:
    """What one start of the driver said.

    Attributes:
        number: Which one, from 1.
        started: How it began; ``None`` where that line is lost.
        ended: How it ended; ``None`` where it still runs, or was killed.
        first: Seconds at which its first suite was started; ``None`` where it came to none.
        last: Seconds at which it said its last word.
        suites: Name of a suite to its start.
        accounts: Name of a suite to where its time went, as far as it told.
        starting: The suite whose workers were being started at the end, if any, and since when.
        filming: Seconds that films took.
        filming_since: Since when they are being made, if they are.
        deaths: How often a worker died, by worker, without an attempt that failed by it.
        slots: What the slots were at when it last told.
        memory: Most bytes of memory that the driver held.
        loads: The machine's load averages.
    """

    number: int
    started: SessionStarted | None = None
    ended: SessionEnded | None = None
    first: float | None = None
    last: float = 0.0
    suites: dict[str, SuiteStarted] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    starting: tuple[str, float] | None = None
    filming: float = 0.0
    filming_since: float | None = None
    deaths: Counter[str] = field(default_factory=Counter)
    slots: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    loads: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Take note of one of its events."""
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
                self.accounts[event.suite], self.slots, self.starting = event.account, event.slots, None
                self.memory = max(self.memory, event.memory or 0)
                self.loads += [] if event.load is None else [event.load]
            case SuiteEnded():
                self.accounts[event.suite], self.slots, self.starting = event.account, {}, None
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
    def asked(self) -> Any:
        """What decides how fast it is: what the user asked for, and where."""
        if self.started is None:
            return None
        config = self.started.config
        return [config.get(name) for name in ("workers", "slots", "batch", "strict", "replicas", "placement", "hosts")] + [
            self.started.cores,
            self.started.host,
        ]


@dataclass(frozen=True)
class Case:
    """The sessions that are looked at: the latest that played, and those that asked for the same before it.

    Attributes:
        sessions: They, oldest first.
        left_out: How many others told of their time.
    """

    sessions: list[SessionEvidence]
    left_out: int

    @classmethod
    def of(cls, sessions: Sequence[SessionEvidence]) -> Self | None:
        """The case to look at; ``None`` where no session told of its time."""
        told = [session for session in sessions if session.accounts or session.starting]
        if not told:
            return None
        played = [session for session in told if any(account.chunks for account in session.accounts.values())]
        latest = (played or told)[-1]
        alike = [session for session in told if session.asked == latest.asked]
        return cls(alike, len(told) - len(alike))

    @property
    def account(self) -> Account:
        """Where the time of all their suites went."""
        return sum(self.by_suite().values(), Account())

    def by_suite(self) -> dict[str, Account]:
        """Where the time of each suite went."""
        together: dict[str, Account] = {}
        for session in self.sessions:
            for suite, account in session.accounts.items():
                together[suite] = together.get(suite, Account()) + account
        return together

    def started(self, suite: str) -> SuiteStarted | None:
        """How a suite was started in the session that played it longest: one that ends a run has work for few."""
        sessions = [session for session in self.sessions if suite in session.suites]
        longest = max(sessions, key=lambda session: session.accounts.get(suite, Account()).playing, default=None)
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
        account = self.account
        phases = {
            "preparing": before,
            "starting": account.starting + under_way,
            "playing": account.playing,
            "filming": filming,
        }
        return phases | {"rest": max(0.0, total - sum(phases.values()))}


@dataclass
class Evidence:
    """All of it.

    Attributes:
        run: Folder of the run.
        manifest: Its manifest.
        tally: Its episodes, counted.
        holder: Who is writing it; ``None`` where nobody is.
        sessions: What its sessions said; those that said nothing are missing.
        started: How many sessions there were, by the ledger.
        attempts: Its failed attempts, of all sessions.
        spent: Slot seconds by activity of all finished episodes, by the ledger; empty where the log tells more.
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
    """The evidence of a run, whether it is finished, running or was killed.

    Raises:
        VlarigError: Manifest or ledger are missing or damaged, or a link leads out of the run's folder.
    """
    check_links(run)
    manifest = Manifest.load(run)
    sessions: dict[int, SessionEvidence] = {}
    not_understood = 0
    for event in read_events(run / "logs", leave_out=_BESIDE):
        if event is None:
            not_understood += 1
        elif event.session:
            sessions.setdefault(event.session, SessionEvidence(event.session)).take(event)
    told = any(session.accounts for session in sessions.values())
    with Ledger.open_read_only(run) as ledger:
        started, attempts = len(ledger.sessions()), ledger.attempts()
        records = [] if told else ledger.records()
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
