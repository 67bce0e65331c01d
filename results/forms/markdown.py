"""Sheets in Markdown, as GitHub and most others render it."""

from __future__ import annotations

from collections.abc import Sequence

from ..sheet import Cell, Sheet, spread_out

_MARKS = {"": ("", ""), "best": ("**", "**"), "second": ("<u>", "</u>")}


def for_markdown(sheets: Sequence[Sheet], legend: str) -> str:
    """A heading and a table for each sheet, and what the numbers are below the last; ends with a newline."""
    lines: list[str] = []
    for sheet in map(spread_out, sheets):
        lines += [f"### {plain(sheet.heading)}", ""]
        if sheet.facts:
            lines += [", ".join(f"{name} `{value}`" for name, value in sheet.facts.items()), ""]
        if sheet.warning:
            lines += [f"**{plain(sheet.warning)}**", ""]
        lines += [*_grid(sheet), ""]
        for number, note in enumerate(sheet.footnotes, 1):
            lines += [f"{_raised([number])} {plain(note)}", ""]
        for note in sheet.notes:
            lines += [plain(note), ""]
    return "\n".join([*lines, plain(legend), ""])


def _grid(sheet: Sheet) -> list[str]:
    headings = [f"{plain(column.group)}<br>{plain(column.title)}" if sheet.groups else plain(column.title)
                for column in sheet.columns]  # fmt: skip
    lines = [_row([plain(sheet.corner), *headings]), "|---|" + "---:|" * len(headings)]
    section = ""
    for line in sheet.lines:
        if line.section != section:
            section = line.section
            lines.append(_row([f"*{plain(section)}*" if section else "", *[""] * len(headings)]))
        label = plain(line.label) + _raised(sheet.numbers(line.footnotes))
        cells = [label, *(_text(sheet, cell) for cell in line.cells)]
        lines.append(_row([f"**{cell}**" if cell else "" for cell in cells] if line.level == "total" else cells))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(sheet: Sheet, cell: Cell) -> str:
    before, after = _MARKS[cell.mark]
    small = f" <sub>{plain(', '.join(cell.beside))}</sub>" if cell.beside else ""
    return f"{before}{plain(cell.text)}{after}{small}{_raised(sheet.numbers(cell.footnotes))}"


def _raised(numbers: Sequence[int]) -> str:
    return f"<sup>{','.join(map(str, numbers))}</sup>" if numbers else ""


def plain(text: str) -> str:
    """``text`` with the characters escaped that Markdown would take for markup."""
    return "".join(f"\\{character}" if character in "\\`*_|<>[]" else character for character in text)
