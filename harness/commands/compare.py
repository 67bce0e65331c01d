"""`vlarig compare`: two runs on the same episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...envs.errors import VlarigError
from ...results.bootstrap import Mean
from ...results.comparison import Compared, Comparison, compare_runs, findings, points, points_range
from ...results.measures import Incomplete
from ...results.runs import find_run
from ..command_line import parse
from ..screen import Screen, print_document

DESCRIPTION = """Compare two runs episode by episode: the second's gains and losses, and whether they can be chance.

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


def main(arguments: list[str]) -> int:
    config = parse(CompareConfig, arguments, "vlarig compare", DESCRIPTION)
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
