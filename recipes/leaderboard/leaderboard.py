"""vla-eval's leaderboard, shown here, and entries of runs for it: ``python recipes/leaderboard/leaderboard.py``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from leaderboard_entries import Submission, entries_of_run, entries_of_table
from leaderboard_form import (
    Leaderboard,
    LeaderboardEntry,
    published_tables,
    read_benchmarks,
    read_leaderboard,
    write_leaderboard,
)
from tyro.conf import Positional, UseAppendAction, arg

from vlarig.benchmarks.published import load_table
from vlarig.benchmarks.suite import unknown
from vlarig.envs.errors import VlarigError
from vlarig.harness.command_line import parse
from vlarig.harness.commands.tables import SheetForm, print_sheets
from vlarig.harness.screen import Screen
from vlarig.results.layouts import Layout
from vlarig.results.runs import find_run
from vlarig.results.tables import run_table

DESCRIPTION = """vla-eval's leaderboard (leaderboard/data/leaderboard.json of allenai/vla-evaluation-harness): show it, or add to it.

  python recipes/leaderboard/leaderboard.py show leaderboard.json libero
  python recipes/leaderboard/leaderboard.py add leaderboard.json --run runs/libero --model doe26mine --name Mine --weights shared
  python recipes/leaderboard/leaderboard.py add leaderboard.json --published table4
"""


@dataclass
class Show:
    """Print a table for each benchmark, the best number bold and the second underlined.

    benchmarks.json has to lie beside the file, as in vla-eval's repository.
    """

    file: Positional[Path]
    """vla-eval's leaderboard.json."""
    benchmarks: Positional[tuple[str, ...]] = ()
    """Keys of the benchmarks wanted. Default: all."""
    format: SheetForm = "terminal"
    """A table with colours, Markdown, LaTeX, CSV (of one benchmark) or a page of HTML."""

    def run(self) -> None:
        tables = published_tables(read_leaderboard(self.file), read_benchmarks(self.file.with_name("benchmarks.json")))
        named = {table.place.removeprefix("benchmark "): table for table in tables}
        for key in self.benchmarks:
            if key not in named:
                raise unknown("benchmark", key, named, str(self.file))
        if self.format == "csv" and len(self.benchmarks) != 1:
            raise VlarigError("benchmarks have different columns, and CSV has one header; name one of them")
        layouts = [Layout(named[key], (), "initial_state") for key in self.benchmarks or named]
        print_sheets([layout.sheet() for layout in layouts], layouts[0].legend if layouts else "", self.format)


@dataclass
class Add:
    """Add entries, and write the file as vla-eval's own check wants it; an entry of the same model and benchmark is replaced."""

    file: Positional[Path]
    """vla-eval's leaderboard.json; made where it is missing."""
    runs: Annotated[UseAppendAction[tuple[Path, ...]], arg(name="run", metavar="RUN")] = ()
    """Folder of a run, or its name below runs/; once for each. It must be whole."""
    published: UseAppendAction[tuple[str, ...]] = ()
    """A table of the paper, such as table4; once for each."""
    model: str | None = None
    """Of runs: key of the model, as in BibTeX."""
    name: str | None = None
    """Of runs: the model's name for readers."""
    weights: Literal["shared", "finetuned"] | None = None
    """Of runs: whether the same weights play all benchmarks, or are fine-tuned on this one."""
    params: str | None = None
    """Of runs: size of the model, such as 7B."""
    paper: str | None = None
    """Of runs: address of the paper that introduces the model."""
    curated_by: str = "human"
    """Who makes the entries: @ with a name at GitHub, or human."""

    def run(self) -> None:
        today = datetime.now(UTC).date()
        new: list[LeaderboardEntry] = []
        if self.runs:
            if self.model is None or self.name is None or self.weights is None:
                raise VlarigError("entries of runs need --model, --name and --weights; give all three")
            submission = Submission(self.model, self.name, self.weights, today, self.curated_by, self.params, self.paper)
            for run in self.runs:
                new += entries_of_run(run_table(find_run(run)), submission)
        for table in self.published:
            new += entries_of_table(load_table(table), today, self.curated_by)
        if not new:
            raise VlarigError("nothing was named to add; give --run or --published")
        old = read_leaderboard(self.file).results if self.file.exists() else []
        replaced = {_place(entry) for entry in new}
        kept = [entry for entry in old if _place(entry) not in replaced]
        write_leaderboard(Leaderboard(last_updated=today, results=[*kept, *new]), self.file)
        message = f"{self.file}: {len(new)} entries written, {len(old) - len(kept)} of them in place of older ones"
        Screen(soft_wrap=True).print(message)


def _place(entry: LeaderboardEntry) -> tuple[str, str, str]:
    return entry.benchmark, entry.model, entry.weight_type


COMMANDS: dict[str, type[Show | Add]] = {"show": Show, "add": Add}


def main(arguments: list[str]) -> int:
    try:
        parse(COMMANDS, arguments, "python recipes/leaderboard/leaderboard.py", DESCRIPTION).run()
    except VlarigError as error:
        sys.stderr.write(f"leaderboard: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
