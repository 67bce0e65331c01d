"""Sheets for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..sheet import Cell, Line, Sheet, spread_out, totals_alone, turned, with_one_n, without_intervals

_MARKS = {"": "", "best": "bold", "second": "underline"}
_TONES = {"": "", "warning": "yellow", "error": "red"}
_LEVELS = {"": "", "total": "bold", "part": ""}
#: Wider than any table.
_ENDLESS = 10_000

#: Letters that a label keeps where the terminal is narrow.
_LABEL = 20

#: Letters of a matrix's heading that need no second line, also above narrower numbers.
_HEADING = 8

_RAISED = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")


def print_sheets(console: Console, sheets: Sequence[Sheet], legend: str) -> None:
    """Print a block for each sheet, and what the numbers are below the last.

    Where the console is narrow, labels are folded, and nothing else: a table that is still too wide is printed wider than the console.
    A matrix is turned where it fits better so; where it does not fit either, its intervals are left out, and then its tasks.
    """
    for whole in map(spread_out, sheets):
        sheet = _fitting(console, whole)
        facts = "".join(f"  {name} {value}" for name, value in sheet.facts.items())
        console.print(Text.assemble((sheet.heading, "bold"), (facts, "dim")))
        narrowest = _narrowest(console, sheet)
        grid = _grid(sheet, longest_label=_LABEL + max(0, console.width - narrowest))
        if narrowest > console.width:
            grid.width = narrowest
        console.print(grid, crop=False)
        for number, note in enumerate(sheet.footnotes, 1):
            console.print(Text(f"{_raised([number])} {note}", style="dim"))
        for note in sheet.notes:
            console.print(Text(note, style="yellow"))
        console.print()
    console.print(Text(legend, style="dim"))


def _fitting(console: Console, sheet: Sheet) -> Sheet:
    """The sheet; of a matrix the first arrangement that the console is wide enough for, or its totals."""
    if not sheet.turns:
        return sheet
    upright = with_one_n(sheet)
    arrangements = [each(side) for each in (lambda side: side, without_intervals) for side in (upright, turned(upright))]
    fitting = (each for each in arrangements if _narrowest(console, each) <= console.width)
    return next(fitting, totals_alone(sheet))


def _narrowest(console: Console, sheet: Sheet) -> int:
    """Letters that a line of the sheet takes with its labels folded."""
    options = console.options.update(width=_ENDLESS)
    return Measurement.get(console, options, _grid(sheet, longest_label=_LABEL)).minimum


def _folded(name: str, width: int) -> list[str]:
    """A name on lines of a width: words stay whole; a longer word is broken after signs that join its parts, a longer part nowhere."""
    parts: list[str] = []
    for word in re.findall(r" *[^ ]+ *", name):
        parts += [word] if len(word.strip()) <= width else re.findall(r"[^/:_-]*[/:_-]+|[^/:_-]+", word)
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _grid(sheet: Sheet, longest_label: int) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_style="yellow", caption_justify="left")
    if sheet.warning:
        grid.caption = Text(sheet.warning)
    labels = [Text(sheet.corner), *(_label(sheet, line, _ENDLESS) for line in sheet.lines)]
    shortest_label = min(_LABEL, _width(labels))
    grid.add_column(sheet.corner, overflow="fold", min_width=shortest_label, max_width=longest_label)
    shown = ""
    for index, column in enumerate(sheet.columns):
        above = column.group if sheet.groups and column.group != shown else ""
        shown = column.group
        cells = [_text(sheet, line.cells[index]) for line in sheet.lines]
        numbers = _width(cells)
        title = (
            _folded(column.title, max(_HEADING, numbers))
            if sheet.turns
            else column.title_lines
            if sheet.place
            else [column.title]
        )
        heading = Text("\n".join([*([above] if sheet.groups else []), *title]), justify="right")
        whole = max(_width([heading]), numbers)
        grid.add_column(heading, justify="right", overflow="fold", min_width=whole)
    section = ""
    for index, line in enumerate(sheet.lines):
        if line.section != section or (line.level == "total" and index > 0):
            grid.add_section()
        if line.section != section:
            section = line.section
            grid.add_row(Text(section, style="italic"))
        grid.add_row(_label(sheet, line, longest_label), *(_text(sheet, cell) for cell in line.cells), style=_style(line))
    return grid


def _style(line: Line) -> str:
    return " ".join(filter(None, [_LEVELS[line.level], _TONES[line.tone]]))


def _label(sheet: Sheet, line: Line, width: int) -> Text:
    indent = "  " * (line.level == "part" or bool(line.section))
    return Text("\n".join(_folded(f"{indent}{line.label}{_raised(sheet.numbers(line.footnotes))}", width)))


def _width(cells: Sequence[Text]) -> int:
    """Letters of the longest line of some cells."""
    return max((line.cell_len for cell in cells for line in cell.split("\n")), default=0)


def _text(sheet: Sheet, cell: Cell) -> Text:
    text = Text(cell.text, style=" ".join(filter(None, [_MARKS[cell.mark], _TONES[cell.tone]])))
    text = Text.assemble(text, (_raised(sheet.numbers(cell.footnotes)), "not bold not underline"))
    return Text("\n").join([text, *(Text(each, style="dim not bold not underline") for each in cell.beside)])


def _raised(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)).translate(_RAISED)
