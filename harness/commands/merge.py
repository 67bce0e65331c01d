"""``vlarig runs merge``: one run out of several, such as shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.manifest import Manifest
from ...results.merging import merge_runs
from ...results.rendering import LEGEND, run_sheet
from ...results.schema import LEDGER_NAME
from ...results.tables import run_table
from ..command_line import parse
from ..filming import draw_sheet
from ..screen import Screen
from .several import check_run, find_runs, read_each, report_refused

DESCRIPTION = """Merge runs of the same identity into one, and print its table: the shards of a sweep, or what two machines began.

Every episode counts once. An episode that several runs finished must have the same result in all of them; else nothing is merged, and
the message names the episode and the difference. DIR is a new run, or a run of the same identity, to which missing episodes are added.
The merged runs stay as they are. Films are copied too.

The sweep's command, without --shard and with --run DIR, finishes the episodes that the merged run still owes.

  vlarig runs merge runs/tabletop-expert-1f0c9e2b-shard-* --run runs/tabletop-expert
  vlarig runs merge here/expert there/expert --run runs/expert
"""


@dataclass(frozen=True)
class MergeConfig:
    """The command's options."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the merged run."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of the runs to merge, or their names below runs/."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(MergeConfig, arguments, "vlarig runs merge", DESCRIPTION)
    if not config.runs:
        raise VlarigError("no run was named; give the folders of runs, as in `vlarig runs merge runs/a runs/b --run runs/ab`")
    console = Screen()
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, _checked)
    merged = merge_runs(readable, config.run)
    for run, count in merged.found.items():
        console.print(f"{run}: {count} finished episodes", soft_wrap=True)
    console.print(f"{merged.run}: {merged.new} of them are new", soft_wrap=True)
    try:
        draw_sheet(merged.run)
    except VlarigError as error:
        console.print(f"frames.png is not drawn: {error}", style="yellow", soft_wrap=True)
    table = run_table(merged.run)
    print_sheets(console, [run_sheet(table)], LEGEND)
    if not table.total.complete:
        owed = table.total.expected - table.total.finished
        message = f"{owed} episodes are owed: the sweep's command, without --shard and with --run {merged.run}, runs them"
        console.print(message, soft_wrap=True)
    return report_refused([*unknown, *refused])


def _checked(folder: Path) -> Path:
    """The folder of a run that can be read; a driver may have been killed before it made a ledger."""
    if (folder / LEDGER_NAME).exists():
        check_run(folder)
    else:
        Manifest.load(folder)
    return folder
