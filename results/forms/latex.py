"""Sheets in LaTeX, with rules of the package booktabs and no other package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..sheet import DASH, Cell, Column, Line, Sheet, flat, spread_out

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#{}"},
    "_": r"\_\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "°": r"$^{\circ}$",
    "Δ": r"$\Delta$",
    "π": r"$\pi$",
}  # fmt: skip
BREAK = r" \\"

#: Names of policies such as π0.5, whose number is written below.
_INDEXED = re.compile(r"π([0-9]+(?:\.[0-9]+)?)")


def for_latex(sheets: Sequence[Sheet], legend: str) -> str:
    r"""A ``table`` for each sheet, after the comment that names the package; ends with a newline.

    What is missing and the footnotes are below the rules, so that they stay with the table.
    """
    blocks = [_table(sheet, legend) for sheet in map(spread_out, sheets)]
    return "\n".join(["% \\usepackage{booktabs}", *blocks])


def _table(sheet: Sheet, legend: str) -> str:
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        f"\\caption{{{plain(_caption(sheet))}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}",
        r"\toprule",
        *_headings(sheet),
        r"\midrule",
        *_body(sheet),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    below = [plain(sheet.warning)] if sheet.warning else []
    below += [f"{_raised([number])} {plain(note)}" for number, note in enumerate(sheet.footnotes, 1)]
    below += [plain(note) for note in (*sheet.notes, legend) if note]
    if below:
        lines += ["", r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize", *(text + r"\par" for text in below)]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}", ""])


def _caption(sheet: Sheet) -> str:
    facts = [f"{name} {value}" for name, value in sheet.facts.items()] + ([f"after {sheet.place}"] if sheet.place else [])
    return f"{sheet.title} ({', '.join(facts)})" if facts else sheet.title


def _headings(sheet: Sheet) -> list[str]:
    lines, first = [], 2
    if sheet.groups:
        rules = []
        cells = [""]
        for group, width in sheet.groups:
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{{plain(group)}}}")
            if group:
                rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
        lines += [_row(cells), " ".join(rules)]
    return [*lines, _row([plain(sheet.corner), *(_heading(column) for column in sheet.columns)])]


def _heading(column: Column) -> str:
    *first, last = map(plain, column.title_lines)
    return rf"\shortstack[r]{{{BREAK.join(first)}{BREAK} {last}}}" if first else last


def _body(sheet: Sheet) -> list[str]:
    lines: list[str] = []
    section = ""
    for index, line in enumerate(sheet.lines):
        if index > 0 and (line.section != section or line.level == "total"):
            lines.append(r"\midrule")
        if line.section != section:
            section = line.section
            if section:
                lines.append(f"\\multicolumn{{{len(sheet.columns) + 1}}}{{l}}{{\\textit{{{plain(section)}}}}} \\\\")
        lines.append(_line(sheet, line))
    return lines


def _line(sheet: Sheet, line: Line) -> str:
    indent = r"\quad " if line.level == "part" else ""
    cells = [plain(line.label), *(_value(cell) for cell in line.cells)]
    if line.level == "total":
        cells = [f"\\textbf{{{cell}}}" for cell in cells]
    notes = [line.footnotes, *(cell.footnotes for cell in line.cells)]
    label, *values = [value + _raised(sheet.numbers(note)) for value, note in zip(cells, notes, strict=True)]
    return _row([indent + label, *map(_tall, values, line.cells)])


def _value(cell: Cell) -> str:
    if cell.text == DASH:
        return "--"
    return {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}[cell.mark].format(plain(cell.text))


def _tall(value: str, cell: Cell) -> str:
    """The value, and below it the interval and the number of episodes, so that columns stay narrow."""
    if not cell.beside:
        return value
    small = "".join(rf"{BREAK} \tiny {text}" for text in cell.beside)
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{value}{small}\end{{tabular}}"


def _raised(numbers: Sequence[int]) -> str:
    return f"$^{{{','.join(map(str, numbers))}}}$" if numbers else ""


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def plain(text: str) -> str:
    """``text`` on one line, with all escaped that LaTeX would take for commands, and with commands for what its usual fonts lack."""
    text = flat(text)  # an empty line within a caption is an error
    pieces, end = [], 0
    for found in _INDEXED.finditer(text):
        pieces += [_escaped(text[end : found.start()]), f"$\\pi_{{{found[1]}}}$"]
        end = found.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
