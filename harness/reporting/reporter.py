"""The reporter of a sweep: a sink that makes events of what the engine measures, and that samples the sweep periodically."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...results.records import Attempt
from ...results.tables import Tally
from ..engine import Engine
from ..sinks import Transition
from ..workers import Worker
from .events import ACTIVITIES, EpisodeEvent, Note, ProgressEvent, SuiteEvent, share
from .logs import EventLog
from .progress import LOOK_SECONDS, Progress

#: Seconds between two frames on a terminal, and between two lines where there is none.
REFRESH_SECONDS = 0.25
LINE_SECONDS = 10.0

#: Smallest share of a kind of waiting that is shown.
LEAST_WAIT = 0.005

_COLORS = {
    "simulate": "green",
    "render": "cyan",
    "policy": "magenta",
    "for a worker's turn": "bright_black",
    "for the policy's turn": "blue",
    "for failed attempts": "red",
}
_SHARE_WIDTH = 40


@contextlib.asynccontextmanager
async def live_display(console: Console, title: str, progress: Progress, engines: Sequence[Engine]) -> AsyncIterator[None]:
    """Show the sweep for as long as the context lasts: a live view on a terminal, else a line now and then.

    ``engines`` are those at work; none before the first suite is loaded.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def show() -> None:
                activities = sum((engine.activities() for engine in engines), Counter[str]())
                live.update(display(title, progress, activities), refresh=True)

            async def refresh() -> None:
                while True:
                    show()
                    await asyncio.sleep(REFRESH_SECONDS)

            async with running(refresh()):
                yield
            show()
        return

    async def write_lines() -> None:
        while True:
            await asyncio.sleep(LINE_SECONDS)
            console.print(line(progress), highlight=False, soft_wrap=True)

    console.print(Text(title), soft_wrap=True)
    async with running(write_lines()):
        yield


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


def display(title: str, progress: Progress, activities: Counter[str]) -> RenderableType:
    """The whole display, rendered once."""
    tasks = Table.grid(padding=(0, 2))
    for side in ("left", "left", "right", "right", "left"):
        tasks.add_column(justify=side)
    shown_suite = None
    for (suite, name), task in progress.tasks.items():
        if suite != shown_suite:
            tasks.add_row(Text(suite, style="bold"))
            shown_suite = suite
        done = ProgressBar(total=max(task.expected, 1), completed=task.finished + task.errors, width=30)
        errors = Text(f"{task.errors} errors", style="red") if task.errors else Text()
        tasks.add_row(
            Text(f"  {name}"),
            done,
            f"{task.finished}/{task.expected}",
            success(task),
            errors,
        )
    facts = Table.grid(padding=(0, 2))
    facts.add_row("envs", _envs(activities, progress))
    parts = _parts(progress)
    facts.add_row("time", Text().join(Text("█" * round(part * _SHARE_WIDTH), _COLORS[name]) for name, part in parts.items()))
    facts.add_row("", Columns([Text.assemble(("■", _COLORS[name]), f" {name} {part:.0%}") for name, part in parts.items()]))
    return Group(Text(title), tasks, Text(), _pace(progress), facts, *_faults(progress))


def line(progress: Progress) -> str:
    """The display in one line, for logs."""
    counts = progress.counts()
    shares = ", ".join(f"{name} {part:.0%}" for name, part in _parts(progress).items())
    trouble = f", {counts.errors} errors, {progress.faults} failed attempts" if progress.faults else ""
    return (
        f"{time.strftime('%H:%M:%S')}  {counts.finished}/{counts.expected} episodes, "
        f"success {success(counts)}, {_pace(progress).plain}{trouble}; {shares}"
    )


def success(tally: Tally) -> str:
    """A rate with its 95 % Wilson interval, in percent."""
    if tally.rate is None:
        return "-"
    low, high = tally.interval
    return f"{100 * tally.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _pace(progress: Progress) -> Text:
    left = progress.seconds_left()
    remaining = "time left unknown" if left is None else f"{timedelta(seconds=round(left))} left"
    rate = 60 * progress.episodes_per_second()
    steps = progress.steps / max(progress.elapsed, 1e-9)
    elapsed = timedelta(seconds=round(progress.elapsed))
    return Text(f"{rate:.1f} episodes/min, {steps:.0f} steps/s, {elapsed} elapsed, {remaining}")


def _envs(activities: Counter[str], progress: Progress) -> Text:
    words = {"simulate": "simulating", "policy": "asking the policy", "reset": "resetting", "idle": "idle"}
    parts = [f"{activities[name]} {word}" for name, word in words.items() if activities[name]]
    busy = sum(activities.values()) - activities["idle"]
    breakdown = progress.total()
    busyness = f"{progress.workers} workers {breakdown.workers_busy:.0%} busy, policy {breakdown.policy_busy:.0%}"
    batches = f" in batches of {breakdown.mean_batch:.1f}" if breakdown.mean_batch else ""
    return Text(f"{busy}/{sum(activities.values())} busy: {', '.join(parts) or 'none yet'}; {busyness}{batches}")


def _parts(progress: Progress) -> dict[str, float]:
    """Shares of the envs' time; waiting is called by what is waited for: with more envs than workers it costs nothing."""
    breakdown = progress.total()
    shares = breakdown.shares()
    del shares["wait"]
    waits = {f"for {what}": share(seconds, breakdown.played) for what, seconds in breakdown.waits().items()}
    return shares | {name: part for name, part in waits.items() if part >= LEAST_WAIT}


def _faults(progress: Progress) -> list[Text]:
    if progress.last_fault is None:
        return []
    fault = progress.last_fault
    latest = f"{progress.faults} failed attempts; the latest: {fault.kind} in {fault.key}: {fault.message}"
    return [Text(latest, style="yellow")]


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
