"""The console that commands print to."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .printable import printable

#: Wider than any table.
_ENDLESS = 10_000


class Screen(Console):
    """A rich console on which strings are shown as they are: no markup, no emoji codes, no control characters.

    Styles are given as ``style=``, or as a rich ``Text``.

    Args:
        options: Those of a rich console.
    """

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of the output; rich's own, which move the cursor, are left as they are."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)

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
        sys.stdout.write(printable(text))
