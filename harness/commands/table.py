"""`vlarig table`: success rates of runs, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ...envs.errors import VlarigError
from ...results.rendering import for_markdown, for_programs, for_terminal
from ...results.runs import find_run
from ...results.tables import run_table

DESCRIPTION = """Show the success rates of one or more runs, by suite and task.

Each rate stands with its Wilson 95 % interval and n, the number of finished episodes. Episodes that a simulator's error ended,
and episodes that were not run yet, are counted in columns of their own and are part of no rate. A run can be looked at while it
is being written, and after it was killed. A shard's table is of its own share of the episodes, and says so.

  vlarig table runs/expert
  vlarig table expert octo --format markdown > results.md
  vlarig table runs/* --format json
"""


@dataclass(frozen=True)
class TableConfig:
    """What the command can be told."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs, or their names below runs/."""
    format: Literal["terminal", "markdown", "json"] = "terminal"
    """A table with colours, a Markdown page to paste, or JSON for programs (rates as fractions of 1)."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    config = tyro.cli(TableConfig, args=arguments, prog="vlarig table", description=DESCRIPTION)
    if not config.runs:
        raise VlarigError("no run was named; give its folder, as in `vlarig table runs/expert`; `vlarig runs` lists the runs")
    print_table([find_run(run) for run in config.runs], config.format)
    return 0


def print_table(run_dirs: Sequence[Path], form: str = "terminal") -> None:
    """Print the tables of runs: ``form`` is ``terminal``, ``markdown`` or ``json``."""
    tables = [run_table(run_dir) for run_dir in run_dirs]
    console = Console()
    if form == "terminal":
        console.print(for_terminal(tables))
    else:
        console.out(for_markdown(tables) if form == "markdown" else for_programs(tables), end="", highlight=False)
