"""``vlarig table`` and ``vlarig compare``: success rates with intervals, the paper's tables, two runs over the same episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...envs.errors import VlarigError
from ...results.bootstrap import Mean
from ...results.comparison import Compared, Comparison, compare_runs, findings, points, points_range
from ...results.forms import terminal
from ...results.forms.csv import for_csv
from ...results.forms.html import for_html
from ...results.forms.latex import for_latex
from ...results.forms.markdown import for_markdown
from ...results.layouts import make_layout
from ...results.matrix import matrix_sheets
from ...results.measures import Incomplete, RunRecords, read_run
from ...results.rendering import LEGEND, for_programs, run_sheet
from ...results.runs import DEFAULT_RUNS, find_run, read_each
from ...results.sheet import Sheet
from ...results.tables import run_table
from ..command_line import parse
from ..screen import Screen, print_document, report_refused

T = TypeVar("T")

COMPARE_HELP = """Compare two runs episode by episode: the second's gains and losses, and whether they can be chance.

Only episodes that both runs finished are compared, and only where both are complete; else the command lists what is missing. The
difference of the success rates has its 95 % interval beside it, and McNemar's exact p-value below it. The difference to expect on other
tasks of the kind is a number of its own. docs/statistics.md explains each number.

  vlarig compare runs/before runs/after
  vlarig compare before after --flips
  vlarig compare before after --metric steps --json
"""


@dataclass(frozen=True)
class CompareConfig:
    """The command's options."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FIRST SECOND")]] = ()
    """Folders of two runs, or their names below runs/."""
    metric: str | None = None
    """A metric to compare besides success, such as steps or reward."""
    flips: bool = False
    """List the episodes that one run alone succeeded in."""
    json: bool = False
    """Print JSON for programs: rates, differences and intervals as fractions of 1, all flips."""


def compare(arguments: list[str]) -> int:
    config = parse(CompareConfig, arguments, "vlarig compare", COMPARE_HELP)
    if len(config.runs) != 2:
        raise VlarigError(f"{len(config.runs)} runs were named, expected two, as in `vlarig compare runs/before runs/after`")
    first, second = (find_run(run) for run in config.runs)
    comparison = compare_runs(first, second, config.metric)
    if config.json:
        print_document(json.dumps(comparison_data(comparison, config.metric), indent=2) + "\n")
    else:
        _print(Screen(), comparison, config.metric, config.flips)
    return 0


def _print(console: Screen, comparison: Comparison, metric: str | None, flips: bool) -> None:
    runs = (("first", comparison.first), ("second", comparison.second))
    for place, run in runs:
        identity = run.manifest.identity
        console.print(Text.assemble(f"{place}: ", (run.run, "bold"), f"  policy {identity.policy}, seed {identity.seed}"))
    console.print(_success_table(comparison.suites))
    if metric:
        console.print(_metric_table(comparison.suites, metric))
    for suite in comparison.suites:
        for line in findings(suite):
            console.print(f"{suite.suite}: {line}", soft_wrap=True)
    if flips:
        for suite in comparison.suites:
            for line in [*(f"gained  {key}" for key in suite.gained), *(f"lost    {key}" for key in suite.lost)]:
                console.print(line, soft_wrap=True)
    for note in comparison.notes:
        console.print(note, style="yellow", soft_wrap=True)
    console.print(
        "difference: second minus first, in points; gained and lost: episodes with success in the second or the first run alone",
        style="dim",
    )  # fmt: skip


def _success_table(suites: Sequence[Compared]) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("suite / task", overflow="fold")
    for name in ("n", "first %", "second %", "difference", "95 % interval", "gained", "lost"):
        grid.add_column(name, justify="right", no_wrap=True)
    for suite in suites:
        mark = "" if suite.complete else " (incomplete)"
        style = "bold" if suite.complete else "bold yellow"
        grid.add_row(f"{suite.suite} {suite.protocol}{mark}", *_cells(suite), style=style)
        for part in suite.each_task():
            grid.add_row("  " + _label(part), *_cells(part), style=None if part.complete else "yellow")
        grid.add_section()
    return grid


def _label(part: Compared) -> str:
    """The name of the task of a part that is of one."""
    return part.tasks[0][0].label


def _cells(part: Compared) -> list[str]:
    """The counts, and the rates where the part is complete."""
    pairs = part.pairs
    flips = [str(pairs.gained), str(pairs.lost)]
    if not part.complete or pairs.rates is None or pairs.difference is None:
        return [str(pairs.n), "-", "-", "-", "-", *flips]
    first, second = pairs.rates
    return [
        str(pairs.n), f"{100 * first:.1f}", f"{100 * second:.1f}", points(pairs.difference), points_range(part.interval()), *flips,
    ]  # fmt: skip


def _metric_table(suites: Sequence[Compared], metric: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("suite", f"{metric}, first", "second", "difference on these tasks", "difference on tasks like these"):
        grid.add_column(name, overflow="fold")
    for suite in suites:
        found = suite.metric(metric)
        cells = [found.first, found.second, found.by_initial_state, found.by_task] if found else ["incomplete"] * 4
        grid.add_row(suite.suite, *(_measured(cell) for cell in cells))
    return grid


def _measured(mean: Mean | Incomplete | str) -> str:
    if not isinstance(mean, Mean):
        return str(mean)
    interval = f" ({mean.interval[0]:.4g} to {mean.interval[1]:.4g})" if mean.interval else ""
    return f"{mean.value:.4g}{interval}"


def comparison_data(comparison: Comparison, metric: str | None = None) -> dict[str, Any]:
    """The comparison as plain data; rates, differences and intervals as fractions of 1."""
    runs = {"first": comparison.first, "second": comparison.second}
    return {
        **{
            place: {
                "run": run.run,
                "policy": run.manifest.identity.policy,
                "seed": run.manifest.identity.seed,
                "identity_hash": run.manifest.identity_hash(),
            }
            for place, run in runs.items()
        },
        "notes": list(comparison.notes),
        "suites": [_suite_data(suite, metric) for suite in comparison.suites],
    }


def _suite_data(suite: Compared, metric: str | None) -> dict[str, Any]:
    by_task, found = suite.on_tasks_like_these(), suite.metric(metric) if metric else None
    return {
        "suite": suite.suite,
        "protocol": suite.protocol,
        **_part_data(suite),
        "p_value": suite.p_value(),
        "p_value_method": "mcnemar exact",
        "detectable_difference": suite.detectable_difference(),
        "on_tasks_like_these": asdict(by_task) if by_task else None,
        "metric": asdict(found) if found else None,
        "tasks": [_task_data(part) for part in suite.each_task()],
    }


def _task_data(part: Compared) -> dict[str, Any]:
    key = part.tasks[0][0].key
    return {
        "task": key.task,
        "variant": key.variant,
        **_part_data(part),
        "gained_keys": part.gained,
        "lost_keys": part.lost,
    }


def _part_data(part: Compared) -> dict[str, Any]:
    pairs = part.pairs
    rates = pairs.rates if part.complete else None
    return {
        "complete": part.complete,
        "lacking": {place: gap and str(gap) for place, gap in zip(("first", "second"), part.gaps, strict=True)},
        "n": pairs.n,
        **asdict(pairs),
        "first_success_rate": rates and rates[0],
        "second_success_rate": rates and rates[1],
        "difference": pairs.difference if part.complete else None,
        "interval": part.interval(),
        "interval_method": part.interval_method,
    }


TABLE_HELP = """Show the success rates of one or more runs, by suite and task.

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


def table(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(TableConfig, arguments, "vlarig table", TABLE_HELP)
    if config.layout is not None:
        return _print_layout(config.layout, config)
    if not config.runs:
        raise VlarigError(
            "no run was named; give its folder, as in `vlarig table runs/expert`; `vlarig runs list` lists the runs"
        )
    named, refused = read_each(config.runs, partial(_read_named, read=run_table))
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


def print_sheets(sheets: Sequence[Sheet], legend: str, form: SheetForm = "terminal") -> None:
    if form == "terminal":
        terminal.print_sheets(Screen(), sheets, legend)
    elif form == "csv":
        print_document(for_csv(sheets))
    else:
        write = {"markdown": for_markdown, "latex": for_latex, "html": for_html}[form]
        print_document(write(sheets, legend))


def _print_layout(name: str, config: TableConfig) -> int:
    runs, refused = read_each(config.runs, partial(_read_named, read=read_run))
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


def _read_named(run: str, read: Callable[[Path], T]) -> tuple[str, T]:
    """The label, empty for none, and what is read of the run's folder."""
    label, equals, name = run.rpartition("=")
    if not equals or any((place / run).is_dir() for place in (Path(), DEFAULT_RUNS)):
        label, name = "", run
    return label, read(find_run(Path(name)))
