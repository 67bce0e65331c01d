"""Sheets as a self-contained HTML page; tables have captions and scopes for screen readers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from ..sheet import Cell, Line, Sheet, spread_out

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums; margin-block: 1rem; }
caption { text-align: start; font-weight: 600; padding-block: .5rem; }
th, td { padding: .25rem .75rem; text-align: end; font-weight: normal; white-space: nowrap; vertical-align: bottom; }
th[scope=row], th[scope=rowgroup], thead th:first-child { text-align: start; }
thead tr:last-child { border-block-end: 1px solid; }
th[scope=colgroup] { text-align: center; border-block-end: 1px solid; }
th[scope=rowgroup] { font-style: italic; padding-block-start: .75rem; }
tr.total > * { font-weight: 700; }
tr.part th { padding-inline-start: 2rem; }
small, .facts, .notes { opacity: .8; }
.warning { font-weight: 700; }
""".strip()


def for_html(sheets: Sequence[Sheet], legend: str) -> str:
    """A whole page; ends with a newline."""
    title = escape(sheets[0].heading if len(sheets) == 1 else "Results")
    body = "\n".join(_section(sheet) for sheet in map(spread_out, sheets))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f'<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}\n<p class="notes">{escape(legend)}</p>\n</body>\n</html>\n'
    )


def _section(sheet: Sheet) -> str:
    facts = ", ".join(f"{escape(name)} <code>{escape(value)}</code>" for name, value in sheet.facts.items())
    parts = [
        '<div class="wide" tabindex="0">\n<table>',
        f"<caption>{escape(sheet.heading)}</caption>",
        f"<thead>\n{_headings(sheet)}\n</thead>",
        *_bodies(sheet),
        "</table>\n</div>",
        f'<p class="facts">{facts}</p>' if facts else "",
        f'<p class="warning">{escape(sheet.warning)}</p>' if sheet.warning else "",
        *(f'<p class="notes"><sup>{number}</sup> {escape(note)}</p>' for number, note in enumerate(sheet.footnotes, 1)),
        *(f'<p class="notes">{escape(note)}</p>' for note in sheet.notes),
    ]
    return "\n".join(filter(None, parts))


def _headings(sheet: Sheet) -> str:
    rows = []
    corner = f'<th scope="col">{escape(sheet.corner)}</th>'
    if sheet.groups:
        above = "".join(
            f'<th scope="colgroup" colspan="{width}">{escape(group)}</th>' if group else f'<td colspan="{width}"></td>'
            for group, width in sheet.groups
        )
        rows.append(f"<tr><td></td>{above}</tr>")
    own = "".join(f'<th scope="col">{escape(column.title)}</th>' for column in sheet.columns)
    return "\n".join([*rows, f"<tr>{corner}{own}</tr>"])


def _bodies(sheet: Sheet) -> list[str]:
    texts = []
    for section, lines in groupby(sheet.lines, key=lambda line: line.section):
        heading = (
            f'<tr><th scope="rowgroup" colspan="{len(sheet.columns) + 1}">{escape(section)}</th></tr>\n' if section else ""
        )
        texts.append(f"<tbody>\n{heading}" + "\n".join(_row(sheet, line) for line in lines) + "\n</tbody>")
    return texts


def _row(sheet: Sheet, line: Line) -> str:
    style = f' class="{line.level}"' if line.level else ""
    cells = "".join(f"<td>{_text(sheet, cell)}</td>" for cell in line.cells)
    return f'<tr{style}><th scope="row">{escape(line.label)}{raised(sheet.numbers(line.footnotes))}</th>{cells}</tr>'


def _text(sheet: Sheet, cell: Cell) -> str:
    before, after = {"": ("", ""), "best": ("<b>", "</b>"), "second": ("<u>", "</u>")}[cell.mark]
    small = f" <small>{escape(', '.join(cell.beside))}</small>" if cell.beside else ""
    return f"{before}{escape(cell.text)}{after}{small}{raised(sheet.numbers(cell.footnotes))}"


def raised(numbers: Sequence[int]) -> str:
    """The numbers of footnotes, set higher than the line."""
    return f"<sup>{','.join(map(str, numbers))}</sup>" if numbers else ""
