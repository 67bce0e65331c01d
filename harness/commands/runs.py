"""``vlarig runs list``, ``runs merge`` and ``runs export``: what can be done with recorded runs without a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.ledger import Ledger
from ...results.manifest import Manifest
from ...results.merging import merge_runs
from ...results.parquet import export_dataset, export_parquet
from ...results.rendering import LEGEND, run_sheet
from ...results.runs import DEFAULT_RUNS, RunSummary, find_runs, list_runs, read_each
from ...results.schema import LEDGER_NAME
from ...results.tables import run_table
from ..command_line import parse
from ..screen import Screen, report_refused

_STYLES = {"complete": "green", "resumable": "yellow", "being written": "cyan", "unreadable": "red"}

LIST_HELP = """List the runs in a folder, latest first: policy, suites, progress, errors and state.

A run is complete, resumable (give its command again), being written by a process at this moment, or unreadable (the reason is
shown below the list). A shard is complete when its own share of the run's episodes is.

  vlarig runs list
  vlarig runs list experiments/october
"""

MERGE_HELP = """Merge runs of the same identity into one, and print its table: the shards of a sweep, or what two machines began.

Every episode counts once. An episode that several runs finished must have the same result in all of them; else nothing is merged, and
the message names the episode and the difference. DIR is a new run, or a run of the same identity, to which missing episodes are added.
The merged runs stay as they are. Films are copied too.

The sweep's command, without --shard and with --run DIR, finishes the episodes that the merged run still owes.

  vlarig runs merge runs/tabletop-expert-1f0c9e2b-shard-* --run runs/tabletop-expert
  vlarig runs merge here/expert there/expert --run runs/expert
"""

EXPORT_HELP = r"""Write the episodes of one or more runs into a Parquet file, a row each; errors and missing episodes have rows too.

  vlarig runs export runs/expert --out expert.parquet
  vlarig runs export runs/* --out episodes.parquet --actions
  vlarig runs export runs/* --out episodes        # a folder as a dataset repository of the Hugging Face Hub has it

  python -c "import duckdb; print(duckdb.sql(\"select task, status, count(*) from 'expert.parquet' group by all\"))"
  python -c "import pandas; print(pandas.read_parquet('expert.parquet').groupby('task').success.mean())"

docs/data.md says what the columns are.
"""


@dataclass(frozen=True)
class ListConfig:
    """Options of ``vlarig runs list``."""

    directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]] = DEFAULT_RUNS
    """Folder that holds the runs."""


def show_list(arguments: list[str]) -> int:
    config = parse(ListConfig, arguments, "vlarig runs list", LIST_HELP)
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


@dataclass(frozen=True)
class MergeConfig:
    """Options of ``vlarig runs merge``."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the merged run."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of the runs to merge, or their names below runs/."""


def merge(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(MergeConfig, arguments, "vlarig runs merge", MERGE_HELP)
    if not config.runs:
        raise VlarigError("no run was named; give the folders of runs, as in `vlarig runs merge runs/a runs/b --run runs/ab`")
    from ..replay import render_sheet

    console = Screen()
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, _mergeable)
    merged = merge_runs(readable, config.run)
    for run, count in merged.found.items():
        console.print(f"{run}: {count} finished episodes", soft_wrap=True)
    console.print(f"{merged.run}: {merged.new} of them are new", soft_wrap=True)
    try:
        render_sheet(merged.run)
    except VlarigError as error:
        console.print(f"frames.png is not rendered: {error}", style="yellow", soft_wrap=True)
    table = run_table(merged.run)
    print_sheets(console, [run_sheet(table)], LEGEND)
    if not table.total.complete:
        owed = table.total.expected - table.total.finished
        message = f"{owed} episodes are owed: the sweep's command, without --shard and with --run {merged.run}, runs them"
        console.print(message, soft_wrap=True)
    return report_refused([*unknown, *refused])


def _mergeable(folder: Path) -> Path:
    """The folder of a run that can be read; a driver may have been killed before it made a ledger."""
    if (folder / LEDGER_NAME).exists():
        return _readable(folder)
    Manifest.load(folder)
    return folder


@dataclass(frozen=True)
class ExportConfig:
    """Options of ``vlarig runs export``."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE|FOLDER")]
    """The file, NAME.parquet, or the folder of a dataset repository; what is there is replaced."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs, or their names below runs/."""
    actions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Add the executed actions, which are most of a ledger."""


def export(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(ExportConfig, arguments, "vlarig runs export", EXPORT_HELP)
    if not config.runs:
        raise VlarigError("no run was named; give its folder, as in `vlarig runs export runs/expert --out expert.parquet`")
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, lambda folder: _readable(folder, config.actions))
    export = export_parquet if config.out.suffix == ".parquet" else export_dataset
    count = export(readable, config.out, config.actions)
    Screen(soft_wrap=True).print(f"{config.out}: {count} episodes")
    return report_refused([*unknown, *refused])


def _readable(folder: Path, with_actions: bool = False) -> Path:
    """The folder of a run whose episodes can all be read, with their actions or without."""
    run_table(folder)
    with Ledger.open_read_only(folder) as ledger:
        for _ in ledger.each_record(with_actions):
            pass
    return folder
