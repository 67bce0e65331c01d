"""Sheets as comma-separated values, for spreadsheets: an interval's bounds and the number of episodes in columns of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..sheet import DASH, Cell, Sheet


def for_csv(sheets: Sequence[Sheet]) -> str:
    """One header and the lines of all sheets, which have the same columns; ends with a newline.

    A dash is an empty field. Footnotes are in the last column, since their numbers would refer to nothing. A text that a spreadsheet
    would read as a formula gets a leading apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = sheets[0].columns
    wide = [any(line.cells[index].n is not None for sheet in sheets for line in sheet.lines) for index in range(len(columns))]
    headings: list[str] = []
    for column, is_wide in zip(columns, wide, strict=True):
        name = f"{column.group} {column.heading}".strip() if sheets[0].groups else column.heading
        headings += [name, f"{name} low", f"{name} high", f"{name} n"] if is_wide else [name]
    writer.writerow(map(_no_formula, ["table", "section", sheets[0].corner, *headings, "notes"]))
    for sheet in sheets:
        for line in sheet.lines:
            fields: list[str] = []
            for cell, is_wide in zip(line.cells, wide, strict=True):
                fields += _fields(cell, is_wide)
            notes = [*line.footnotes, *(note for cell in line.cells for note in cell.footnotes)]
            row = [sheet.heading, line.section, line.label, *fields, "; ".join(dict.fromkeys(notes))]
            writer.writerow(map(_no_formula, row))
    return out.getvalue()


def _no_formula(text: str) -> str:
    """``text``, with an apostrophe before it where it begins a formula; numbers stay as they are."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _fields(cell: Cell, is_wide: bool) -> list[str]:
    value = "" if cell.text in (DASH, "-") else cell.text
    if not is_wide:
        return [value]
    low, high = cell.interval or ("", "")
    return [value, low, high, "" if cell.n is None else str(cell.n)]
