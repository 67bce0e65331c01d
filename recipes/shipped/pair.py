"""Splits a sweep of tabletop by what no training scene shows, a purple cylinder: python pair.py RUN.

Prints successes of the episodes whose instruction names one, of those that merely show one, and of the others, with Wilson's 95 %
intervals. Tasks differ in how often they name it, so each is a row of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.tabletop.sampler import HELD_OUT
from vlarig.results.ledger import Ledger
from vlarig.results.statistics import wilson_interval

NAME = " ".join(HELD_OUT)
KINDS = (f"names a {NAME}", f"shows a {NAME}", "neither")


def main(run: Path) -> None:
    """Print the table of one run."""
    suite = load_suite("tabletop")
    with Ledger.open_read_only(run) as ledger:
        records = ledger.records()
    counts: Counter[tuple[str, str, bool]] = Counter()
    for record in records:
        # The scene in the standard words, in whatever words it was played.
        episode = suite.episode_again(record.task, record.variant, record.initial_state, record.repeat, suite.protocol())
        shown = [each["name"] for each in episode.payload["objects"]]
        kind = KINDS[0] if NAME in episode.payload["instruction"] else KINDS[1] if NAME in shown else KINDS[2]
        for task in (record.task, "all tasks"):
            counts[task, kind, record.success] += 1
    table = Table("task", *KINDS)
    for task in (*dict.fromkeys(record.task for record in records), "all tasks"):
        table.add_row(task, *(_cell(counts[task, kind, True], counts[task, kind, False]) for kind in KINDS))
    Console(width=120).print(table)


def _cell(successes: int, failures: int) -> str:
    if not successes + failures:
        return ""
    low, high = wilson_interval(successes, successes + failures)
    return f"{successes} of {successes + failures} ({100 * low:.0f} to {100 * high:.0f} %)"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
