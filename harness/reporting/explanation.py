"""The report of ``vlarig doctor RUN``: what a run recorded about its speed, where its time went, and why."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...envs.messages import MEMORY
from ...results.ledger import Ledger
from ...results.lock import lock_holder
from ...results.manifest import Manifest
from ...results.records import Attempt
from ...results.tables import Tally, run_table
from .diagnosis import Setting, Verdict, bottleneck, diagnose, duration, percent
from .events import ACTIVITIES, Event, ProgressEvent, SessionEvent, SuiteEvent, TimeBreakdown, read_events, share
from .logs import LIBRARY_LOG, log_of

#: Share below which a line is left out, unless it is one of the four activities.
LEAST_SHOWN = 0.0005

_WIDTH = 11


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
        sessions: Number of sessions, by the ledger.
        session: The latest session that played, else the latest in the log; ``None`` where the log has none.
        attempts: Its failed attempts, of all sessions.
        not_understood: Lines of the log that are cut short or of another version.
    """

    run: Path
    manifest: Manifest
    tally: Tally
    sessions: int
    session: SessionEvidence | None
    attempts: list[Attempt]
    not_understood: int


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
        count, attempts = len(ledger.sessions()), ledger.attempts()
    return Evidence(
        run=run,
        manifest=manifest,
        tally=run_table(run).total,
        sessions=count,
        session=played[-1] if played else None,
        attempts=attempts,
        not_understood=not_understood,
    )


def explain(evidence: Evidence) -> list[str]:
    """The whole report, line by line."""
    session = evidence.session
    if session is None:
        return [_headline(evidence), *_without_log(evidence)]
    breakdown, log = session.breakdown, evidence.run / "logs" / LIBRARY_LOG
    return [
        _headline(evidence),
        *_phases(evidence, session),
        "",
        *_envs(breakdown),
        "",
        *_busyness(evidence, session, breakdown),
        "",
        *_why(evidence, session, breakdown),
        *([f"libraries warned of something: see {log}"] if log.exists() else []),
    ]


def _headline(evidence: Evidence) -> str:
    tally = evidence.tally
    if holder := lock_holder(evidence.run):
        state = f"being written by {holder}"
    elif tally.complete:
        state = "complete"
    else:
        state = "not running, and not complete; the same command goes on"
    errors = f", {tally.errors} given up" if tally.errors else ""
    return f"{evidence.run.resolve().name}: {tally.finished} of {tally.expected} episodes{errors}; {state}"


def _phases(evidence: Evidence, session: SessionEvidence) -> Iterator[str]:
    yield f"session {session.started.session} of {evidence.sessions}, {duration(session.last)}:"
    phases = {name: seconds for name, seconds in session.phases().items() if share(seconds, session.last) >= LEAST_SHOWN}
    yield "  " + ", ".join(
        f"{name} {duration(seconds)} ({percent(share(seconds, session.last))})" for name, seconds in phases.items()
    )
    for suite, started in session.suites.items():
        yield f"  {suite}: {started.why}; batches of {started.batch} at most"
    if evidence.not_understood:
        yield f"  not known: {evidence.not_understood} line(s) of the log that a kill cut short or that another version wrote"


def _envs(breakdown: TimeBreakdown) -> Iterator[str]:
    yield f"where the envs' time went ({duration(breakdown.env_seconds)} of all envs together)"
    remarks = {
        "wait": ", ".join(
            f"for {what} {percent(share(seconds, breakdown.env_seconds))}"
            for what, seconds in breakdown.waits().items()
            if seconds > 0
        ),
        "ledger": "waiting for the disk",
        "idle": "no episode left for the env",
        "rest": "chunks that are under way, or were given up",
    }
    parts = {name: getattr(breakdown, name) for name in ACTIVITIES}
    parts |= {"ledger": breakdown.saving, "idle": breakdown.idle, "rest": breakdown.rest}
    for name, seconds in parts.items():
        if name in ACTIVITIES or share(seconds, breakdown.env_seconds) >= LEAST_SHOWN:
            yield _line(name, percent(share(seconds, breakdown.env_seconds)), remarks.get(name, ""))


def _busyness(evidence: Evidence, session: SessionEvidence, breakdown: TimeBreakdown) -> Iterator[str]:
    playing = max(breakdown.playing, 1e-9)
    yield f"how busy everything was while episodes were played ({duration(breakdown.playing)})"
    yield _line(
        "workers",
        percent(breakdown.workers_occupied),
        f"had something to do; {percent(breakdown.workers_busy)}: simulated or rendered",
    )
    load = breakdown.load
    each = load.seconds / max(load.batches, 1)
    answers = f"batches of {breakdown.mean_batch:.1f} on average, {duration(each)} each; the first took {duration(load.first)}"
    yield _line("policy", percent(breakdown.policy_busy), answers)
    late = duration(breakdown.late / max(breakdown.looks, 1))
    yield _line(
        "driver",
        percent(share(breakdown.loop_cpu, playing)),
        f"of a core for moving messages, {late} late on average; {breakdown.driver_cpu / playing:.1f} cores in all",
    )
    yield _line("resets", percent(share(breakdown.reset, breakdown.env_seconds)), "of the envs' time, about")
    if session.load is not None:
        yield _line("machine", f"{session.load:.1f}", f"load on average, on {session.started.cores} cores")
    if evidence.attempts:
        yield _line("attempts", str(len(evidence.attempts)), f"failed ({_kinds(evidence)}), in all sessions")
    yield _line("disk", f"{shutil.disk_usage(evidence.run).free / 2**30:.1f}", "GiB free")
    if len(session.breakdowns) > 1:
        yield ""
        yield "by suite"
        for suite, own in session.breakdowns.items():
            busy = f"workers {percent(own.workers_occupied)}, policy {percent(own.policy_busy)}"
            yield f"  {suite}: {duration(own.playing)}, {own.episodes} episodes, {busy}"


def _why(evidence: Evidence, session: SessionEvidence, breakdown: TimeBreakdown) -> Iterator[str]:
    """The causes, weighed over all suites; suites with one bottleneck are taken together."""
    if not breakdown.chunks:
        yield "not known: what holds it up, since no chunk was carried out yet"
    groups: dict[str, list[str]] = {}
    for suite, own in session.breakdowns.items():
        groups.setdefault(bottleneck(own), []).append(suite)
    verdicts = [*_failures(evidence, breakdown), *_beside_playing(session)]
    for suites in groups.values():
        together = sum((session.breakdowns[suite] for suite in suites), TimeBreakdown())
        whose = f"{', '.join(suites)}: " if len(groups) > 1 else ""
        found = diagnose(together, _setting(evidence, session, suites))
        verdicts += [Verdict(verdict.seconds, whose + verdict.text) for verdict in found]
    if verdicts:
        yield "why, the most weighty first"
    for number, verdict in enumerate(sorted(verdicts, key=lambda verdict: -verdict.seconds), 1):
        yield f"{number}. {verdict.text}"


def _setting(evidence: Evidence, session: SessionEvidence, suites: list[str]) -> Setting:
    started = [session.suites[suite] for suite in suites]
    largest = max(started, key=lambda each: each.num_envs)
    identity = evidence.manifest.identity
    return Setting(
        cores=session.started.cores,
        workers=largest.workers,
        num_envs=largest.num_envs,
        batch=largest.batch,
        episodes=max(each.owed for each in started),
        workers_given=session.started.config["workers"] is not None,
        strict=identity.strict,
        protocol=next(plan.protocol for plan in identity.suites if plan.name == suites[0]),
        renderer=identity.renderer,
        load=session.load,
    )


def _beside_playing(session: SessionEvidence) -> Iterator[Verdict]:
    advice = {
        "loading the policy, planning": "run more episodes or suites in one sweep, or keep the policy loaded in a server",
        "starting workers": "it is paid once a suite and session, so run more episodes in one sweep",
        "filming": "--video failures films less, and vlarig runs replay films single episodes later",
    }
    phases = session.phases()
    for name, sentence in advice.items():
        part = share(phases[name], session.last)
        if part >= 0.1:
            yield Verdict(
                phases[name], f"{name.capitalize()} took {duration(phases[name])}, {percent(part)} of the time: {sentence}."
            )


def _failures(evidence: Evidence, breakdown: TimeBreakdown) -> Iterator[Verdict]:
    lost = share(breakdown.recovering, breakdown.env_seconds)
    if evidence.attempts:
        last = evidence.attempts[-1]
        worst, count = Counter(attempt.worker for attempt in evidence.attempts).most_common(1)[0]
        text = (
            f"{len(evidence.attempts)} attempts at episodes failed ({_kinds(evidence)}), {count} of them on {worst}; the latest, on "
            f"{last.worker}: {last.message.rstrip('.')}. About {percent(lost)} of the envs' time was lost by it. Look into "
            f"{log_of(evidence.run, last)} for the cause."
        )
        if evidence.tally.errors:
            text += f" {evidence.tally.errors} episodes are given up for now; the same command tries them again."
        if last.kind == MEMORY or "SIGKILL" in last.message:
            text += " Where memory is short, take fewer --workers, of which each may then use more, or fewer --num-envs."
        yield Verdict(lost * breakdown.playing, text)
    if breakdown.deaths > 0:
        yield Verdict(
            lost * breakdown.playing,
            f"Workers died {breakdown.deaths} times between requests: something on the machine kills them, often for lack of memory. "
            "Take fewer --workers or --num-envs, and look into the system's log.",
        )


def _kinds(evidence: Evidence) -> str:
    kinds = Counter(attempt.kind for attempt in evidence.attempts)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def _without_log(evidence: Evidence) -> Iterator[str]:
    """The report from the ledger alone."""
    if evidence.not_understood:
        yield "The log of where its time went was written by another version of vlarig, whose own doctor reads it."
    else:
        yield "There is no log of where its time went: the run was merged of shards, or its logs/ cannot be written."
    with Ledger.open_read_only(evidence.run) as ledger:
        records = ledger.records()
    spent = {name: sum(record.seconds.get(name, 0.0) for record in records) for name in ACTIVITIES}
    if total := sum(spent.values()):
        yield ""
        yield "where the envs' time went, in finished episodes"
        for name, seconds in spent.items():
            yield _line(name, percent(share(seconds, total)), "")
    yield "not known: how busy workers, policy and driver were, how large the batches, and what starts and restarts took"
    for verdict in _failures(evidence, TimeBreakdown()):
        yield verdict.text


def _line(name: str, value: str, remark: str) -> str:
    return f"  {name:<{_WIDTH}}{value:>8}  {remark}".rstrip()
