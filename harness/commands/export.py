"""`vlarig runs export`: a run's episodes as data for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.parquet import export_dataset, export_parquet
from ..command_line import parse
from ..screen import Screen
from .several import check_run, find_runs, read_each, report_refused

DESCRIPTION = r"""Write the episodes of one or more runs into a Parquet file, a row each; errors and missing episodes have rows too.

  vlarig runs export runs/expert --out expert.parquet
  vlarig runs export runs/* --out episodes.parquet --actions
  vlarig runs export runs/* --out episodes        # a folder as a dataset repository of the Hugging Face Hub has it

  python -c "import duckdb; print(duckdb.sql(\"select task, status, count(*) from 'expert.parquet' group by all\"))"
  python -c "import pandas; print(pandas.read_parquet('expert.parquet').groupby('task').success.mean())"

docs/data.md says what the columns are.
"""


@dataclass(frozen=True)
class ExportConfig:
    """The command's options."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE|FOLDER")]
    """The file, NAME.parquet, or the folder of a dataset repository; what is there is replaced."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs, or their names below runs/."""
    actions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Add the executed actions, which are most of a ledger."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(ExportConfig, arguments, "vlarig runs export", DESCRIPTION)
    if not config.runs:
        raise VlarigError("no run was named; give its folder, as in `vlarig runs export runs/expert --out expert.parquet`")
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, lambda folder: check_run(folder, config.actions))
    export = export_parquet if config.out.suffix == ".parquet" else export_dataset
    count = export(readable, config.out, config.actions)
    Screen(soft_wrap=True).print(f"{config.out}: {count} episodes")
    return report_refused([*unknown, *refused])
