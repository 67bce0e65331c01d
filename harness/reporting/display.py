"""The live display of a sweep: a view that is rendered again and again on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...results.tables import Tally
from ..engine import Engine
from .events import share
from .progress import Progress, running

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
    trouble = f", {counts.errors} errors, {len(progress.attempts)} failed attempts" if progress.attempts else ""
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
    elapsed = timedelta(seconds=round(progress.elapsed))
    return Text(f"{rate:.1f} episodes/min, {progress.steps_per_second():.0f} steps/s, {elapsed} elapsed, {remaining}")


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
    if not progress.attempts:
        return []
    fault = progress.attempts[-1]
    latest = f"{len(progress.attempts)} failed attempts; the latest: {fault.kind} in {fault.key}: {fault.message}"
    return [Text(latest, style="yellow")]
