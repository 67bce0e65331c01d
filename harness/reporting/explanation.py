"""The report of ``vlarig doctor RUN``: where the time of a run went, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...envs.messages import MEMORY
from .diagnosis import WORTH, Setting, Verdict, bottleneck, diagnose, duration, percent
from .evidence import Case, Evidence
from .library_messages import LIBRARY_LOG, log_of
from .time_breakdown import ACTIVITIES, TimeBreakdown, share

#: Share below which a line is left out, unless it is one of the four activities.
LEAST_SHOWN = 0.0005

#: Most sessions that are listed by number.
MOST_NUMBERS = 6

#: Free space below which a run is in danger.
LITTLE_SPACE = 2**30

_WIDTH = 11


def explain(evidence: Evidence) -> list[str]:
    """The whole report, line by line."""
    case = Case.of(evidence.sessions)
    lines = [_headline(evidence)]
    if case is None:
        return [*lines, *_without_log(evidence)]
    verdicts = _verdicts(evidence, case)
    return [
        *lines,
        *_sessions(evidence, case),
        "",
        *_envs(case),
        "",
        *_busyness(evidence, case),
        "",
        *_why(verdicts, case),
        *_beware(evidence),
        *_libraries(evidence),
    ]


def _headline(evidence: Evidence) -> str:
    tally = evidence.tally
    if evidence.holder:
        state = f"being written by {evidence.holder}"
    elif tally.complete:
        state = "complete"
    else:
        state = "not running, and not complete; the same command goes on"
    errors = f", {tally.errors} given up" if tally.errors else ""
    return f"{evidence.run.resolve().name}: {tally.finished} of {tally.expected} episodes{errors}; {state}"


def _sessions(evidence: Evidence, case: Case) -> Iterator[str]:
    phases = case.phases()
    total = sum(phases.values())
    yield f"{_numbers(case)} of {evidence.started}, {duration(total)}:"
    words = {
        "preparing": "loading the policy, planning",
        "starting": "starting workers",
        "playing": "playing",
        "filming": "filming",
        "rest": "the rest",
    }
    yield "  " + ", ".join(
        f"{words[name]} {duration(seconds)} ({percent(share(seconds, total))})" for name, seconds in phases.items() if seconds
    )
    for suite in case.by_suite():
        if (started := case.started(suite)) is not None:
            yield f"  {suite}: {started.why}; batches of {started.batch} at most"
    if case.left_out:
        yield f"  left out: {case.left_out} session(s) with other workers, envs or batches, or on another machine"
    silent = evidence.started - len(evidence.sessions)
    if silent > 0:
        yield f"  not known: what {silent} session(s) without a log did"
    if evidence.not_understood:
        yield f"  not known: {evidence.not_understood} line(s) of the log that a kill cut short or that another version wrote"


def _numbers(case: Case) -> str:
    numbers = [session.number for session in case.sessions]
    if len(numbers) > MOST_NUMBERS:
        return f"{len(numbers)} sessions, {numbers[0]} to {numbers[-1]},"
    return f"session{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _envs(case: Case) -> Iterator[str]:
    breakdown = case.breakdown
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


def _busyness(evidence: Evidence, case: Case) -> Iterator[str]:
    breakdown = case.breakdown
    playing = max(breakdown.playing, 1e-9)
    yield f"how busy everything was while episodes were played ({duration(breakdown.playing)})"
    yield _line(
        "workers",
        percent(breakdown.workers_occupied),
        f"had something to do; {percent(breakdown.workers_busy)}: simulated or drew",
    )
    load = breakdown.load
    each = load.seconds / max(load.batches, 1)
    answers = f"batches of {breakdown.mean_batch:.1f} on average, {duration(each)} each; the first took {duration(load.first)}"
    yield _line("policy", percent(breakdown.policy_busy), answers)
    late = duration(breakdown.late / max(breakdown.looks, 1))
    memory = max(session.memory for session in case.sessions)
    held = f", {memory / 1e6:.0f} MB of memory" if memory else ""
    yield _line(
        "driver",
        percent(share(breakdown.loop_cpu, playing)),
        f"of a core for moving messages, {late} late on average; {breakdown.driver_cpu / playing:.1f} cores in all{held}",
    )
    yield _line("resets", percent(share(breakdown.reset, breakdown.env_seconds)), "of the envs' time, about")
    loads = [load for session in case.sessions for load in session.loads]
    if loads:
        yield _line("machine", f"{sum(loads) / len(loads):.1f}", f"load on average, on {_cores(case)} cores")
    if evidence.attempts:
        yield _line("attempts", str(len(evidence.attempts)), f"failed ({_kinds(evidence)}), in all sessions")
    yield _line("disk", f"{evidence.free / 2**30:.1f}", f"GiB free; the ledger has {evidence.size / 1e6:.1f} MB")
    breakdowns = case.by_suite()
    if len(breakdowns) > 1:
        yield ""
        yield "by suite"
        for suite, own in breakdowns.items():
            busy = f"workers {percent(own.workers_occupied)}, policy {percent(own.policy_busy)}"
            yield f"  {suite}: {duration(own.playing)}, {own.episodes} episodes, {busy}"


def _why(verdicts: list[Verdict], case: Case) -> Iterator[str]:
    if not case.breakdown.chunks:
        now = ", ".join(f"{count} {name}" for name, count in case.sessions[-1].envs.items() if count)
        yield f"not known: what holds it up, since no chunk was carried out yet (envs: {now or 'none at work'})"
    if verdicts:
        yield "why, the most weighty first"
    for number, verdict in enumerate(verdicts, 1):
        yield f"{number}. {verdict.text}"


def _verdicts(evidence: Evidence, case: Case) -> list[Verdict]:
    """The causes, weighed over all suites and sessions."""
    groups: dict[str, list[str]] = {}
    breakdowns = case.by_suite()
    for suite, breakdown in breakdowns.items():
        groups.setdefault(bottleneck(breakdown), []).append(suite)
    verdicts = [*_failures(evidence, case), *_phases(case)]
    for suites in groups.values():
        breakdown = sum((breakdowns[suite] for suite in suites), TimeBreakdown())
        found = diagnose(breakdown, _setting(evidence, case, suites))
        if len(groups) > 1:
            found = [Verdict(verdict.seconds, f"{', '.join(suites)}: {verdict.text}") for verdict in found]
        verdicts += found
    least = WORTH * sum(case.phases().values())
    worth = [verdict for verdict in verdicts if verdict.seconds >= least or verdict.seconds == 0]
    return sorted(worth, key=lambda verdict: -verdict.seconds)


def _setting(evidence: Evidence, case: Case, suites: list[str]) -> Setting:
    started = [each for suite in suites if (each := case.started(suite)) is not None]
    identity = evidence.manifest.identity
    loads = [load for session in case.sessions for load in session.loads]
    largest = max(started, key=lambda each: each.num_envs, default=None)
    return Setting(
        suites=tuple(suites),
        cores=_cores(case),
        workers=largest.workers if largest else 1,
        num_envs=largest.num_envs if largest else 1,
        batch=largest.batch if largest else 1,
        episodes=max((each.owed for each in started), default=1),
        why=largest.why if largest else "",
        workers_given=any(
            session.started is not None and session.started.config.get("workers") is not None for session in case.sessions
        ),
        strict=identity.strict,
        protocol=next(plan.protocol for plan in identity.suites if plan.name == suites[0]),
        renderer=identity.renderer,
        load=sum(loads) / len(loads) if loads else None,
    )


def _cores(case: Case) -> int:
    started = case.sessions[-1].started
    return started.cores if started is not None else 1


def _phases(case: Case) -> Iterator[Verdict]:
    """The parts of the sessions beside playing."""
    phases = case.phases()
    total = sum(phases.values())
    sentences = {
        "preparing": (
            0.2,
            "Loading the policy and planning took {}. It is paid once a session: run more episodes or suites in one sweep, or keep the "
            "policy loaded in a server.",
        ),
        "starting": (
            0.1,
            "Starting the workers took {}. It is paid once a suite and session, for any number of episodes: run more of them in "
            "one sweep.",
        ),
        "filming": (
            0.1,
            "Filming took {}: --video failures films less, and vlarig replay films single episodes later.",
        ),
    }
    for name, (least, sentence) in sentences.items():
        part = share(phases[name], total)
        if part >= least:
            yield Verdict(phases[name], sentence.format(f"{duration(phases[name])}, {percent(part)} of the time"))


def _failures(evidence: Evidence, case: Case) -> Iterator[Verdict]:
    """Attempts that failed, and workers that died."""
    breakdown = case.breakdown
    lost = share(breakdown.recovering + (breakdown.rest if breakdown.given_up else 0.0), breakdown.env_seconds)
    if evidence.attempts:
        last = evidence.attempts[-1]
        workers = Counter(attempt.worker for attempt in evidence.attempts)
        worst, count = workers.most_common(1)[0]
        whose = f"all on {worst}" if len(workers) == 1 else f"{count} of them on {worst}"
        log = log_of(evidence.run, last)
        text = (
            f"{len(evidence.attempts)} attempts at episodes failed ({_kinds(evidence)}), {whose}; the latest, on {last.worker}: "
            f"{last.message.rstrip('.')}."
        )
        if breakdown.env_seconds:
            text += f" About {percent(lost)} of the envs' time was lost by it."
        if evidence.tally.errors:
            text += f" {evidence.tally.errors} episodes are given up for now; the same command tries them again."
        text += f" Look into {log} for the cause."
        if last.kind == MEMORY or "SIGKILL" in last.message:
            text += " Where memory is short, take fewer --workers, of which each may then use more, or fewer --num-envs."
        yield Verdict(lost * breakdown.playing, text)
    deaths = sum((session.deaths for session in case.sessions), Counter[str]())
    if deaths:
        counts = ", ".join(f"{worker} {count}" for worker, count in deaths.most_common(5))
        yield Verdict(
            lost * breakdown.playing,
            f"Workers died {deaths.total()} times between requests ({counts}): something on the machine kills them, often for lack of "
            "memory. Take fewer --workers or --num-envs, and look into the system's log.",
        )


def _kinds(evidence: Evidence) -> str:
    kinds = Counter(attempt.kind for attempt in evidence.attempts)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def _beware(evidence: Evidence) -> Iterator[str]:
    tally = evidence.tally
    needed = evidence.size / tally.finished * (tally.expected - tally.finished) if tally.finished else 0.0
    if evidence.free < max(needed, LITTLE_SPACE):
        yield (
            f"beware: {evidence.free / 2**30:.1f} GiB are free on the run's disk, and the rest of the run needs about "
            f"{needed / 2**30:.1f}"
        )


def _libraries(evidence: Evidence) -> Iterator[str]:
    log = evidence.run / "logs" / LIBRARY_LOG
    if log.exists():
        yield f"libraries warned of something: see {log}"


def _without_log(evidence: Evidence) -> Iterator[str]:
    """The report from the ledger alone."""
    yield (
        "There is no log of where its time went: the run was merged of shards, made by an older vlarig, or too short, or its logs/ "
        "cannot be written."
    )
    total = sum(evidence.spent.values())
    if total:
        yield ""
        yield "where the envs' time went, in finished episodes"
        for name, seconds in evidence.spent.items():
            yield _line(name, percent(share(seconds, total)), "")
        most = max(evidence.spent, key=lambda name: evidence.spent[name])
        advice = {
            "simulate": "most of it is simulation: more --workers, up to one a core, share it",
            "render": "most of it is drawing: a GPU renderer (VLARIG_RENDERER) draws faster, and longer chunks draw less",
            "policy": "most of it is the policy: a faster device, or larger batches by more --num-envs",
            "wait": "most of it is waiting for the policy's or a worker's turn; a sweep with a log shows for which",
        }
        yield ""
        yield f"why: {advice[most]}"
    yield "not known: how busy workers, policy and driver were, how large the batches, and what starts and restarts took"
    for verdict in _failures(evidence, Case([], 0)):
        yield verdict.text
    yield from _beware(evidence)


def _line(name: str, value: str, remark: str) -> str:
    return f"  {name:<{_WIDTH}}{value:>8}  {remark}".rstrip()
