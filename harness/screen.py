"""The console that commands print to."""

from __future__ import annotations

import io
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Wider than any table.
_ENDLESS = 10_000

#: Seconds between two lines of progress where there is no terminal.
LINE_SECONDS = 10.0


class Screen(Console):
    """A rich console on which strings are shown as they are: no markup, no emoji codes.

    Styles are given as ``style=``, or as a rich ``Text``.

    Args:
        options: Those of a rich console.
    """

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain | options)

    def print_table(self, table: Table, blocks: Iterable[tuple[Text, str]]) -> None:
        """Print a table; where it is too wide for the screen, print paragraphs instead, so that no name is broken.

        Args:
            table: The table. Its columns have a width that they need, or do not wrap.
            blocks: The head of each paragraph, which is not wrapped, and what is below it.
        """
        endless = self.options.update(width=_ENDLESS)
        for column in table.columns:
            if column.no_wrap:  # rich would cut it between its words
                column.min_width = max(Measurement.get(self, endless, cell).maximum for cell in (column.header, *column.cells))
        if Measurement.get(self, endless, table).minimum <= self.width:
            self.print(table)
            return
        for head, below in blocks:
            self.print(head, soft_wrap=True)
            for line in textwrap.wrap(below, self.width - 2, break_long_words=False, break_on_hyphens=False):
                self.print(f"  {line}", soft_wrap=True)


def report(line: str) -> None:
    """Print a step to stderr, where progress belongs."""
    Screen(stderr=True, soft_wrap=True).print(line)


@contextmanager
def progress(console: Console, name: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show how far a work is: a bar on a terminal, else a line now and then.

    Gives a function to call with how many of ``total`` are done, and with a note.

    Args:
        console: Where.
        name: What is done.
        total: How many there are.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, note="")
        began = printed = time.monotonic()

        def show(done: int, note: str) -> None:
            nonlocal printed
            bar.update(task, completed=done, note=note)
            now = time.monotonic()
            if not console.is_terminal and now - printed >= LINE_SECONDS:
                printed = now
                left = f"{timedelta(seconds=round((now - began) / done * (total - done)))} left" if done else ""
                words = ", ".join(filter(None, (f"{name} {done}/{total}", note, left)))
                console.print(f"{time.strftime('%H:%M:%S')}  {words}", highlight=False, soft_wrap=True)

        yield show


def report_refused(refused: Sequence[tuple[str, str]]) -> int:
    """Print on standard error which runs were left out and why, and return the command's exit status: 1 where one was."""
    for name, reason in refused:
        report(f"vlarig: {name} is left out: {reason}")
    return 1 if refused else 0


def print_document(text: str) -> None:
    """Print text for a file or another program, such as JSON or LaTeX: as it is, in UTF-8 on any terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    if sys.stdout is not None:  # it was closed
        sys.stdout.write(text)
