"""Sheets for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..sheet import Cell, Line, Sheet, spread_out, turned, with_one_n, without_intervals

_MARKS = {"": "", "best": "bold", "second": "underline"}
_TONES = {"": "", "warning": "yellow", "error": "red"}
_LEVELS = {"": "", "total": "bold", "part": ""}
#: Wider than any table.
_ENDLESS = 10_000

#: Letters that a label keeps where the terminal is narrow.
_LABEL = 20

#: Letters of a matrix's heading that need no second line: as many as an interval has.
_HEADING = 14

_RAISED = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")


def print_sheets(console: Console, sheets: Sequence[Sheet], legend: str) -> None:
    """Print a block for each sheet, and what the numbers are below the last.

    Where the console is narrow, labels are folded, and nothing else: a table that is still too wide is printed wider than the console.
    A matrix is turned where it fits better so; where it does not fit either, its intervals are left out.
    """
    for whole in map(spread_out, sheets):
        sheet = _fitting(console, whole)
        facts = "".join(f"  {name} {value}" for name, value in sheet.facts.items())
        console.print(Text.assemble((sheet.heading, "bold"), (facts, "dim")))
        grid = _grid(sheet)
        narrowest = _narrowest(console, sheet)
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
    """The sheet; of a matrix the first arrangement that the console is wide enough for, or the narrowest."""
    if not sheet.turns:
        return sheet
    upright = with_one_n(sheet)
    arrangements = [each(side) for each in (lambda side: side, without_intervals) for side in (upright, turned(upright))]
    fitting = (each for each in arrangements if _narrowest(console, each) <= console.width)
    return next(fitting, None) or min(arrangements, key=lambda each: _narrowest(console, each))


def _narrowest(console: Console, sheet: Sheet) -> int:
    """Letters that a line of the sheet takes with its labels folded."""
    options = console.options.update(width=_ENDLESS)
    return Measurement.get(console, options, _grid(sheet, longest_label=_LABEL)).minimum


def _folded(heading: str) -> list[str]:
    """A name on several lines, broken only after a sign that joins its parts."""
    lines = [""]
    for part in re.findall(r"[^/:_ -]*[/:_ -]+|[^/:_ -]+", heading):
        if lines[-1] and len(lines[-1] + part.rstrip()) > _HEADING:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _grid(sheet: Sheet, longest_label: int | None = None) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_style="yellow", caption_justify="left")
    if sheet.warning:
        grid.caption = Text(sheet.warning)
    labels = [Text(sheet.corner), *(_label(sheet, line) for line in sheet.lines)]
    shortest_label = min(_LABEL, max(label.cell_len for label in labels))
    grid.add_column(labels[0], overflow="fold", min_width=shortest_label, max_width=longest_label)
    shown = ""
    for index, column in enumerate(sheet.columns):
        above = column.group if sheet.groups and column.group != shown else ""
        shown = column.group
        title = _folded(column.title) if sheet.turns else column.title_lines if sheet.place else [column.title]
        lines = [*([above] if sheet.groups else []), *title]
        heading = Text("\n".join(lines), justify="right")
        cells = [heading, *(_text(sheet, line.cells[index]) for line in sheet.lines)]
        whole = max(line.cell_len for cell in cells for line in cell.split("\n"))
        grid.add_column(heading, justify="right", overflow="fold", min_width=whole)
    section = ""
    for index, line in enumerate(sheet.lines):
        if line.section != section or (line.level == "total" and index > 0):
            grid.add_section()
        if line.section != section:
            section = line.section
            grid.add_row(Text(section, style="italic"))
        grid.add_row(_label(sheet, line), *(_text(sheet, cell) for cell in line.cells), style=_style(line))
    return grid


def _style(line: Line) -> str:
    return " ".join(filter(None, [_LEVELS[line.level], _TONES[line.tone]]))


def _label(sheet: Sheet, line: Line) -> Text:
    indent = "  " * (line.level == "part" or bool(line.section))
    return Text(f"{indent}{line.label}{_raised(sheet.numbers(line.footnotes))}")


def _text(sheet: Sheet, cell: Cell) -> Text:
    text = Text(cell.text, style=" ".join(filter(None, [_MARKS[cell.mark], _TONES[cell.tone]])))
    text = Text.assemble(text, (_raised(sheet.numbers(cell.footnotes)), "not bold not underline"))
    return Text("\n").join([text, *(Text(each, style="dim not bold not underline") for each in cell.beside)])


def _raised(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)).translate(_RAISED)
