"""`vlarig runs`: the runs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...results.runs import DEFAULT_RUNS, RunSummary, list_runs

_STYLES = {"complete": "green", "resumable": "yellow", "being written": "cyan", "unreadable": "red"}

DESCRIPTION = """List the runs in a folder, latest first: policy, suites, progress, errors and state.

A run is complete, resumable (give its command again), being written by a process at this moment, or unreadable (the reason is
told below the list). A shard is complete when its own share of the run's episodes is.

  vlarig runs
  vlarig runs experiments/october
"""


@dataclass(frozen=True)
class RunsConfig:
    """What the command can be told."""

    directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]] = DEFAULT_RUNS
    """Folder that holds the runs."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    config = tyro.cli(RunsConfig, args=arguments, prog="vlarig runs", description=DESCRIPTION)
    console = Console()
    runs = list_runs(config.directory)
    if runs:
        console.print(_table(runs))
    else:
        console.print(f"No runs in {config.directory}.", markup=False, highlight=False)
    for run in runs:
        if run.note:
            verb = "is being written by " if run.state == "being written" else ""
            console.print(
                f"{run.name}: {verb}{run.note}", style=_STYLES[run.state], markup=False, highlight=False, soft_wrap=True
            )
    return 0


def _table(runs: Sequence[RunSummary]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", style="bold", overflow="fold", min_width=8)
    table.add_column("policy", overflow="fold", min_width=6)
    table.add_column("suites", overflow="fold", min_width=8)
    for name in ("finished", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("last change", no_wrap=True)
    for run in runs:
        part = f"shard {run.shard} " if run.shard else ""
        state = f"{part}[{_STYLES[run.state]}]{run.state}[/]"
        progress = "-" if run.state == "unreadable" else f"{run.finished}/{run.expected}"
        errors = f"[red]{run.errors}[/]" if run.errors else "0"
        changed = run.changed.strftime("%Y-%m-%d %H:%M")
        suites = escape(", ".join(run.suites))
        table.add_row(escape(run.name), escape(run.policy), suites, progress, errors, state, changed)
    return table
