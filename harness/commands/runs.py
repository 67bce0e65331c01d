"""`vlarig runs list`: the runs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...results.runs import DEFAULT_RUNS, RunSummary, list_runs
from ..command_line import parse
from ..screen import Screen

_STYLES = {"complete": "green", "resumable": "yellow", "being written": "cyan", "unreadable": "red"}

DESCRIPTION = """List the runs in a folder, latest first: policy, suites, progress, errors and state.

A run is complete, resumable (give its command again), being written by a process at this moment, or unreadable (the reason is
shown below the list). A shard is complete when its own share of the run's episodes is.

  vlarig runs list
  vlarig runs list experiments/october
"""


@dataclass(frozen=True)
class RunsConfig:
    """The command's options."""

    directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]] = DEFAULT_RUNS
    """Folder that holds the runs."""


def main(arguments: list[str]) -> int:
    config = parse(RunsConfig, arguments, "vlarig runs list", DESCRIPTION)
    console = Screen()
    runs = list_runs(config.directory)
    if runs:
        console.print_table(_table(runs), map(_block, runs))
    else:
        console.print(f"No runs in {config.directory}.")
    for run in runs:
        if run.note:
            verb = "is being written by " if run.state == "being written" else ""
            console.print(f"{run.name}: {verb}{run.note}", style=_STYLES[run.state], soft_wrap=True)
    return 0


def _table(runs: Sequence[RunSummary]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "policy", "suites", "finished", "errors", "state", "last change"):
        table.add_column(name, justify="right" if name in ("finished", "errors") else "left", no_wrap=True)
    for run in runs:
        errors = Text(str(run.errors), style="red" if run.errors else "")
        suites = ", ".join(run.suites)
        table.add_row(Text(run.name, "bold"), run.policy, suites, _progress(run), errors, _state(run), _changed(run))
    return table


def _block(run: RunSummary) -> tuple[Text, str]:
    """The same, for a narrow screen: its name and state, and the facts about it."""
    head = Text.assemble((run.name, "bold"), "  ", _state(run))
    facts = [f"{run.policy} in {', '.join(run.suites)}", f"{_progress(run)} finished"] if run.suites else []
    errors = [f"{run.errors} errors"] if run.errors else []
    return head, ", ".join([*facts, *errors, f"last change {_changed(run)}"])


def _progress(run: RunSummary) -> str:
    return "-" if run.state == "unreadable" else f"{run.finished}/{run.expected}"


def _state(run: RunSummary) -> Text:
    part = f"shard {run.shard} " if run.shard else ""
    return Text.assemble(part, (run.state, _STYLES[run.state]))


def _changed(run: RunSummary) -> str:
    return run.changed.strftime("%Y-%m-%d %H:%M")
