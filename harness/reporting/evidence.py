"""What a run recorded about its speed: a session of its log, the failed attempts of its ledger, and its disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ...results.ledger import Ledger
from ...results.lock import lock_holder
from ...results.manifest import Manifest
from ...results.records import Attempt
from ...results.tables import Tally, run_table
from .events import Event, ProgressEvent, SessionEvent, SuiteEvent, read_events
from .time_breakdown import ACTIVITIES, TimeBreakdown


@dataclass
class SessionEvidence:
    """The log of one start of the driver.

    Attributes:
        started: How it began.
        first: Seconds at which its first suite was started; ``None`` where it came to none.
        ended: Seconds at which it was done with its episodes; ``None`` where it still plays, or was killed.
        last: Seconds of its last event.
        suites: Name of a suite to its start.
        breakdowns: Name of a suite to where its time went, as far as it was logged.
        loads: The machine's load averages.
    """

    started: SessionEvent
    first: float | None = None
    ended: float | None = None
    last: float = 0.0
    suites: dict[str, SuiteEvent] = field(default_factory=dict)
    breakdowns: dict[str, TimeBreakdown] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Add one of its events."""
        self.last = event.seconds
        match event:
            case SessionEvent() if event.state != "started":
                self.ended = event.seconds
            case SuiteEvent():
                self.first = event.seconds if self.first is None else self.first
                self.suites[event.suite], self.breakdowns[event.suite] = event, event.breakdown
            case ProgressEvent() if event.suite in self.suites:
                self.breakdowns[event.suite] = event.breakdown
                self.loads += [] if event.load is None else [event.load]
            case _:
                pass

    @property
    def breakdown(self) -> TimeBreakdown:
        """Where the time of all its suites went."""
        return sum(self.breakdowns.values(), TimeBreakdown())

    @property
    def load(self) -> float | None:
        """The machine's load on average; ``None`` where it is not known."""
        return sum(self.loads) / len(self.loads) if self.loads else None

    def phases(self) -> dict[str, float]:
        """Its seconds, divided by what the sweep was doing."""
        breakdown = self.breakdown
        phases = {
            "loading the policy, planning": self.last if self.first is None else self.first,
            "starting workers": breakdown.starting,
            "playing": breakdown.playing,
            "filming": 0.0 if self.ended is None else self.last - self.ended,
        }
        return phases | {"the rest": max(0.0, self.last - sum(phases.values()))}


@dataclass
class Evidence:
    """All that a run recorded about its speed.

    Attributes:
        run: Folder of the run.
        manifest: Its manifest.
        tally: Its episodes, counted.
        holder: The process that is writing it; ``None`` where none is.
        sessions: Number of sessions, by the ledger.
        session: The latest session that played, else the latest in the log; ``None`` where the log has none.
        attempts: Its failed attempts, of all sessions.
        spent: Env seconds by activity of all finished episodes, by the ledger; empty where there is a session.
        not_understood: Lines of the log that are cut short or of another version.
        free: Bytes that are free on its disk.
    """

    run: Path
    manifest: Manifest
    tally: Tally
    holder: str | None
    sessions: int
    session: SessionEvidence | None
    attempts: list[Attempt]
    spent: dict[str, float]
    not_understood: int
    free: int


def gather(run: Path) -> Evidence:
    """The evidence of a run, whether it is finished, running or was killed."""
    manifest = Manifest.load(run)
    sessions: dict[int, SessionEvidence] = {}
    not_understood = 0
    for event in read_events(run / "logs"):
        if event is None:
            not_understood += 1
            continue
        if isinstance(event, SessionEvent) and event.state == "started":
            sessions[event.session] = SessionEvidence(event)
        if event.session in sessions:
            sessions[event.session].take(event)
    played = [session for session in sessions.values() if session.breakdown.chunks] or list(sessions.values())
    with Ledger.open_read_only(run) as ledger:
        count, attempts, records = len(ledger.sessions()), ledger.attempts(), [] if played else ledger.records()
    return Evidence(
        run=run,
        manifest=manifest,
        tally=run_table(run).total,
        holder=lock_holder(run),
        sessions=count,
        session=played[-1] if played else None,
        attempts=attempts,
        spent={name: sum(record.seconds.get(name, 0.0) for record in records) for name in ACTIVITIES},
        not_understood=not_understood,
        free=shutil.disk_usage(run).free,
    )
