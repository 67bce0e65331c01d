"""Sheets in Markdown, as GitHub and most others render it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..sheet import Cell, Sheet, flat, spread_out
from .html import raised

_MARKS = {"": ("", ""), "best": ("**", "**"), "second": ("<u>", "</u>")}


def for_markdown(sheets: Sequence[Sheet], legend: str) -> str:
    """A heading and a table for each sheet, and what the numbers are below the last; ends with a newline."""
    lines: list[str] = []
    for sheet in map(spread_out, sheets):
        lines += [f"### {plain(sheet.heading)}", ""]
        if sheet.facts:
            lines += [", ".join(f"{plain(name)} {_code(value)}" for name, value in sheet.facts.items()), ""]
        if sheet.warning:
            lines += [f"**{plain(sheet.warning.strip())}**", ""]
        lines += [*_grid(sheet), ""]
        for number, note in enumerate(sheet.footnotes, 1):
            lines += [f"{raised([number])} {plain(note)}", ""]
        for note in sheet.notes:
            lines += [_paragraph(note), ""]
    return "\n".join([*lines, _paragraph(legend), ""])


def _grid(sheet: Sheet) -> list[str]:
    headings = [f"{plain(column.group)}<br>{plain(column.title)}" if sheet.groups else plain(column.title)
                for column in sheet.columns]  # fmt: skip
    lines = [_row([plain(sheet.corner), *headings]), "|---|" + "---:|" * len(headings)]
    section = ""
    for line in sheet.lines:
        if line.section != section:
            section = line.section
            lines.append(_row([f"*{plain(section)}*" if section else "", *[""] * len(headings)]))
        label = plain(line.label) + raised(sheet.numbers(line.footnotes))
        cells = [label, *(_text(sheet, cell) for cell in line.cells)]
        lines.append(_row([f"**{cell}**" if cell else "" for cell in cells] if line.level == "total" else cells))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(sheet: Sheet, cell: Cell) -> str:
    before, after = _MARKS[cell.mark]
    small = f" <sub>{plain(', '.join(cell.beside))}</sub>" if cell.beside else ""
    return f"{before}{plain(cell.text)}{after}{small}{raised(sheet.numbers(cell.footnotes))}"


def _paragraph(text: str) -> str:
    """``text`` as a paragraph, whatever it begins like: not a list, nor code for being indented."""
    return re.sub(
        r"^([-+=]|\d+(?=[.)]))", lambda found: found[0] + "\\" if found[0].isdecimal() else f"\\{found[0]}", plain(text.strip())
    )


def _code(text: str) -> str:
    """``text`` as code, between more backticks than it has in a row."""
    text = flat(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def plain(text: str) -> str:
    """``text`` on one line with the characters escaped that Markdown, or GitHub's, would take for markup."""
    return "".join(f"\\{character}" if character in "\\`*_|<>[]#~&$" else character for character in flat(text))
