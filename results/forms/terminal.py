"""Sheets for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..sheet import Cell, Line, Sheet, spread_out

_MARKS = {"": "", "best": "bold", "second": "underline"}
_TONES = {"": "", "warning": "yellow", "error": "red"}
_LEVELS = {"": "", "total": "bold", "part": ""}
_RAISED = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")


def for_terminal(sheets: Sequence[Sheet], legend: str) -> RenderableType:
    """A block for each sheet, for a rich console, and what the numbers are below the last."""
    blocks: list[RenderableType] = []
    for sheet in map(spread_out, sheets):
        facts = "".join(f"  {name} {value}" for name, value in sheet.facts.items())
        notes = [Text(note, style="yellow") for note in sheet.notes]
        footnotes = [Text(f"{_raised([number])} {note}", style="dim") for number, note in enumerate(sheet.footnotes, 1)]
        blocks += [Text.assemble((sheet.heading, "bold"), (facts, "dim")), _grid(sheet), *footnotes, *notes, ""]
    return Group(*blocks, Text(legend, style="dim"))


def _grid(sheet: Sheet) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_style="yellow", caption_justify="left")
    if sheet.warning:
        grid.caption = Text(sheet.warning)
    grid.add_column(Text(sheet.corner), overflow="fold", vertical="bottom")
    shown = ""
    for column in sheet.columns:
        above = column.group if sheet.groups and column.group != shown else ""
        shown = column.group
        heading = f"{above}\n{column.title}" if sheet.groups else column.title
        grid.add_column(Text(heading, justify="right"), justify="right", no_wrap=True)
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
    if cell.interval:
        text = Text.assemble(text, (f" [{cell.interval[0]}, {cell.interval[1]}]", "dim not bold not underline"))
    if cell.n is not None:
        text = Text.assemble(text, (f" n {cell.n}", "dim not bold not underline"))
    return Text.assemble(text, (_raised(sheet.numbers(cell.footnotes)), "not bold not underline"))


def _raised(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)).translate(_RAISED)
