"""A table independent of its format: columns, lines, marks, intervals and footnotes.

:mod:`vlarig.results.forms` writes sheets: for a terminal, in Markdown, LaTeX, CSV and HTML.
"""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

#: Shown where there is no number.
DASH = "–"

#: The best number of a column, or its second best.
Mark = Literal["", "best", "second"]

#: What colour may show besides the words: that something is missing, or failed.
Tone = Literal["", "warning", "error"]

_ARROWS = {"": "", "higher": " ↑", "lower": " ↓"}

#: Letters of a heading that need no second line.
_NARROW = 9


@dataclass(frozen=True)
class Column:
    """What a column is of.

    Attributes:
        group: Heading above that of several columns; empty where there is none.
        better: Which values are better, shown as an arrow; empty where that is no question.
    """

    heading: str
    group: str = ""
    better: Literal["", "higher", "lower"] = ""

    @property
    def title(self) -> str:
        """The heading with its arrow."""
        return self.heading + _ARROWS[self.better]

    @property
    def title_lines(self) -> list[str]:
        """The same on several lines, where it is long and has where to break."""
        *first, last = textwrap.wrap(self.heading, _NARROW, break_long_words=False)
        return [*first, last + _ARROWS[self.better]]


@dataclass(frozen=True)
class Cell:
    """A value as it is printed.

    Attributes:
        text: The value.
        interval: Its lower and upper bound.
        n: Episodes behind it.
        mark: Whether it is the best of its column, or the second best.
        tone: What its colour says.
        footnotes: Remarks on it.
    """

    text: str = DASH
    interval: tuple[str, str] | None = None
    n: int | None = None
    mark: Mark = ""
    tone: Tone = ""
    footnotes: tuple[str, ...] = ()

    @property
    def beside(self) -> list[str]:
        """Interval and number of episodes as printed beside the value, or below it."""
        interval = [f"[{self.interval[0]}, {self.interval[1]}]"] if self.interval else []
        return interval if self.n is None else [*interval, f"n {self.n}"]


@dataclass(frozen=True)
class Line:
    """A line of cells.

    Attributes:
        label: What the line is of.
        cells: A cell for each column.
        level: ``total`` for a sum of the lines below it, ``part`` for one of these.
        tone: What its colour says.
        footnotes: Remarks on all its cells.
        section: Heading above it; empty where there is none.
    """

    label: str
    cells: tuple[Cell, ...]
    level: Literal["", "total", "part"] = ""
    tone: Tone = ""
    footnotes: tuple[str, ...] = ()
    section: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        corner: Heading of the labels.
        place: Which table of a paper it is; empty for one of ours.
        facts: What the numbers depend on, by name.
        warning: What the whole table lacks; empty where it lacks nothing.
        notes: Lines below the numbers.
        spread: Whether intervals and numbers of episodes have columns of their own in forms for people; else they are beside the value.
        turns: Whether it is a matrix, whose lines and columns may change places where it fits better so. Its last column is of all.
    """

    title: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    place: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    warning: str = ""
    notes: tuple[str, ...] = ()
    spread: bool = False
    turns: bool = False

    @property
    def heading(self) -> str:
        """The title, after the place."""
        return f"{self.place}: {self.title}" if self.place else self.title

    @property
    def footnotes(self) -> tuple[str, ...]:
        """All footnotes, each once, in the order in which a reader meets them."""
        return tuple(
            dict.fromkeys(
                note
                for line in self.lines
                for place in (line.footnotes, *(cell.footnotes for cell in line.cells))
                for note in place
            )
        )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings above the columns' own, each with the number of columns below it; empty where they would distinguish nothing."""
        if len({column.group for column in self.columns}) < 2:
            return []
        return [(group, len(list(columns))) for group, columns in groupby(self.columns, key=lambda column: column.group)]

    def numbers(self, footnotes: tuple[str, ...]) -> list[int]:
        """The numbers of some footnotes, counted from 1, in order and each once."""
        return [number for number, note in enumerate(self.footnotes, 1) if note in footnotes]


def flat(text: str) -> str:
    """``text`` on one line: forms end a caption, a cell or a paragraph at a line's end. Other control characters go too."""
    return "".join(" " if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") else each for each in text)


def spread_out(sheet: Sheet) -> Sheet:
    """The sheet with intervals and numbers of episodes in columns of their own, where ``spread`` is set."""
    if not sheet.spread:
        return sheet
    wide = [any(line.cells[index].n is not None for line in sheet.lines) for index in range(len(sheet.columns))]
    columns: list[Column] = []
    for column, is_wide in zip(sheet.columns, wide, strict=True):
        columns += [column, Column("95 % interval"), Column("n")] if is_wide else [column]
    lines = []
    for line in sheet.lines:
        cells: list[Cell] = []
        for cell, is_wide in zip(line.cells, wide, strict=True):
            cells.append(replace(cell, interval=None, n=None))
            if is_wide:
                cells += [Cell(" to ".join(cell.interval) if cell.interval else "-"), Cell(str(cell.n or 0))]
        lines.append(replace(line, cells=tuple(cells)))
    return replace(sheet, columns=tuple(columns), lines=tuple(lines), spread=False)


def turned(matrix: Sheet) -> Sheet:
    """The matrix with its lines as columns."""
    lines = [
        Line(column.heading, tuple(line.cells[index] for line in matrix.lines)) for index, column in enumerate(matrix.columns)
    ]
    return replace(matrix, corner="task", columns=tuple(Column(line.label) for line in matrix.lines), lines=tuple(lines))


def without_intervals(matrix: Sheet) -> Sheet:
    """The matrix with its values and numbers of episodes alone, which says so."""
    lines = [replace(line, cells=tuple(replace(cell, interval=None) for cell in line.cells)) for line in matrix.lines]
    return replace(matrix, lines=tuple(lines), notes=(*matrix.notes, "a wider terminal shows the intervals"))


def totals_alone(matrix: Sheet) -> Sheet:
    """The matrix with its last column alone, which says so."""
    lines = tuple(replace(line, cells=line.cells[-1:]) for line in matrix.lines)
    note = "a wider terminal, or --per-run, shows the tasks"
    return spread_out(
        replace(matrix, columns=matrix.columns[-1:], lines=lines, notes=(*matrix.notes, note), spread=True, turns=False)
    )


def with_one_n(matrix: Sheet) -> Sheet:
    """The matrix with the number of episodes beside the last value of each line alone, so that its lines stay low."""
    lines = [
        replace(line, cells=(*(replace(cell, n=None) for cell in line.cells[:-1]), line.cells[-1])) for line in matrix.lines
    ]
    return replace(matrix, lines=tuple(lines))
