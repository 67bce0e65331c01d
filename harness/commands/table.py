"""`vlarig table`: success rates of runs with their intervals, and the paper's tables with rows of these runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...envs.errors import VlarigError
from ...results.forms import terminal
from ...results.forms.csv import for_csv
from ...results.forms.html import for_html
from ...results.forms.latex import for_latex
from ...results.forms.markdown import for_markdown
from ...results.layouts import make_layout
from ...results.matrix import matrix_sheets
from ...results.measures import RunRecords, read_run
from ...results.rendering import LEGEND, for_programs, run_sheet
from ...results.runs import DEFAULT_RUNS, find_run, read_each
from ...results.sheet import Sheet
from ...results.tables import RunTable, run_table
from ..command_line import parse
from ..screen import Screen, print_document, report_refused

DESCRIPTION = """Show the success rates of one or more runs, by suite and task.

Each rate has its Wilson 95 % interval and n, the number of finished episodes. Episodes that a simulator's error ended,
and episodes that were not run yet, are counted in columns of their own and are part of no rate. A run can be shown while it
is being written, and after it was killed. A shard's table is of its own share of the episodes, and says so.

Runs that played a suite under the same protocol make one matrix of it, a row for each run and a column for each task; in a narrow
terminal the tasks are the rows. A suite that only one run played gets a table of its own. JSON is a list of the runs in any case.

  vlarig table runs/expert
  vlarig table runs/*
  vlarig table before=runs/sft after=runs/rl --per-run
  vlarig table expert octo --format markdown > results.md
  vlarig table runs/* --format json

With --layout it is one of the paper's tables, with the published rows and one of yours for each policy; without runs the published
rows alone. The best number of a column is bold, the second underlined. An incomplete cell has no number, but a footnote.

  vlarig table --layout table4
  vlarig table --layout table4 runs/libero runs/simpler --format latex > table4.tex
  vlarig table --layout table8 "before RL"=runs/sft "after RL"=runs/rl
"""

#: The forms of a sheet.
SheetForm = Literal["terminal", "markdown", "latex", "csv", "html"]


@dataclass(frozen=True)
class TableConfig:
    """The command's options."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[LABEL=]RUN...")]] = ()
    """Folders of runs, or their names below runs/. A row's label is the policy's name unless it is given; with --layout, runs of one
    label make one row."""
    layout: Annotated[str | None, tyro.conf.arg(metavar="LAYOUT")] = None
    """A table to put the runs into: the paper's table4, table7, table8, table9 and table11, or a plug-in's."""
    per_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A table for each run, also of runs that played the same."""
    interval: Literal["initial_state", "task"] = "initial_state"
    """With --layout, what intervals cover: other initial states of these tasks, or other tasks of their kind."""
    format: SheetForm | Literal["json"] = "terminal"
    """A table with colours, a Markdown page to paste, LaTeX for the package booktabs, CSV for spreadsheets, a page of HTML, or JSON
    for programs."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(TableConfig, arguments, "vlarig table", DESCRIPTION)
    if config.layout is not None:
        return _print_layout(config.layout, config)
    if not config.runs:
        raise VlarigError(
            "no run was named; give its folder, as in `vlarig table runs/expert`; `vlarig runs list` lists the runs"
        )
    named, refused = read_each(config.runs, _table_named)
    if config.format == "json":
        print_document(for_programs([table for _, table in named]))
    else:
        sheets = [run_sheet(table) for _, table in named] if config.per_run else matrix_sheets(named)
        if config.format == "csv" and len({sheet.columns for sheet in sheets}) > 1:
            raise VlarigError(
                "these runs make tables of different columns, and CSV has one header; name fewer runs, or --per-run"
            )
        print_sheets(sheets, LEGEND, config.format)
    return report_refused(refused)


def _table_named(run: str) -> tuple[str, RunTable]:
    label, folder = _named(run)
    return label, run_table(folder)


def print_sheets(sheets: Sequence[Sheet], legend: str, form: SheetForm = "terminal") -> None:
    if form == "terminal":
        terminal.print_sheets(Screen(), sheets, legend)
    elif form == "csv":
        print_document(for_csv(sheets))
    else:
        write = {"markdown": for_markdown, "latex": for_latex, "html": for_html}[form]
        print_document(write(sheets, legend))


def _print_layout(name: str, config: TableConfig) -> int:
    runs, refused = read_each(config.runs, _read_named)
    layout = make_layout(name, _labelled(runs), config.interval)
    if config.format == "json":
        print_document(json.dumps(layout.data(), indent=2) + "\n")
    else:
        print_sheets([layout.sheet()], layout.legend, config.format)
    return report_refused(refused)


def _labelled(named: Sequence[tuple[str, RunRecords]]) -> list[tuple[str, RunRecords]]:
    """The runs with their labels: those that were given, else the policies' names, with revisions where these are of two policies."""
    revisions: dict[str, set[str | None]] = {}
    for _, run in named:
        revisions.setdefault(run.manifest.identity.policy_label, set()).add(run.manifest.identity.policy_revision)
    labelled = []
    for label, run in named:
        identity = run.manifest.identity
        ambiguous = len(revisions[identity.policy_label]) > 1
        own = f"{identity.policy_label} ({identity.policy_revision})" if ambiguous else identity.policy_label
        labelled.append((label or own, run))
    return labelled


def _read_named(run: str) -> tuple[str, RunRecords]:
    """The label, empty for none, and what the run knows."""
    label, folder = _named(run)
    return label, read_run(folder)


def _named(run: str) -> tuple[str, Path]:
    """The label, empty for none, and the run's folder."""
    label, equals, name = run.rpartition("=")
    if not equals or any((place / run).is_dir() for place in (Path(), DEFAULT_RUNS)):
        return "", find_run(Path(run))
    return label, find_run(Path(name))
