"""One table in every form: golden files, and that LaTeX, Markdown, HTML and CSV are read by those who read them."""

from __future__ import annotations

import csv
import html
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from layout_runs import play
from markdown_it import MarkdownIt
from rich.console import Console
from sample_runs import make_run

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.plugins import layout_files
from vlarig.results.forms.csv import for_csv
from vlarig.results.forms.html import for_html
from vlarig.results.forms.latex import for_latex
from vlarig.results.forms.markdown import for_markdown
from vlarig.results.forms.terminal import print_sheets
from vlarig.results.layouts import make_layout
from vlarig.results.measures import read_run
from vlarig.results.rendering import LEGEND, run_sheet
from vlarig.results.sheet import Cell, Column, Line, Sheet
from vlarig.results.tables import run_table

#: Reviewed output of the forms; VLARIG_WRITE_GOLDEN=1 writes it again, for another review.
GOLDEN = Path(__file__).parent / "golden"

#: Names that every form would take for something else.
NASTY = ("[red]a|b*c_d", r"50% & \alpha{x}^2 ~ $1 #", '<script>alert("&")</script>')


def terminal(sheets: list[Sheet], legend: str, width: int = 150) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_sheets(console, sheets, legend)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


FORMS: dict[str, Callable[[list[Sheet], str], str]] = {
    "txt": terminal,
    "md": for_markdown,
    "tex": for_latex,
    "csv": lambda sheets, _: for_csv(sheets),
    "html": for_html,
}


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Sheet], str]]:
    """Table 4 with a complete and an incomplete row, Table 7 without any, and two runs."""
    folder = tmp_path_factory.mktemp("runs")
    done = play(folder / "done", "simpler_widowx", policy="mine")
    part = play(folder / "part", "simpler_widowx", policy="yours", finished=lambda episode: episode.initial_state > 2)
    mixed = make_layout("table4", [("mine", read_run(done)), ("yours", read_run(part))])
    published = make_layout("table7", [])
    runs = [make_run(folder / "expert"), make_run(folder / "half", finished=4, errors=1)]
    return {
        "table4": ([mixed.sheet()], mixed.legend),
        "table7": ([published.sheet()], published.legend),
        "runs": ([run_sheet(run_table(run)) for run in runs], LEGEND),
    }


def nasty_sheet() -> Sheet:
    cells = tuple(Cell(text, mark="best", footnotes=(text,)) for text in NASTY)
    lines = [Line(text, cells, section=text, footnotes=(text,)) for text in NASTY]
    columns = tuple(Column(text, text, "lower") for text in NASTY)
    return Sheet(NASTY[0], NASTY[1], columns, tuple(lines), {"policy": NASTY[2]}, warning=NASTY[0], notes=NASTY)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["table4", "table7", "runs"])
def test_golden(sheets: dict, name: str, form: str) -> None:
    text = FORMS[form](*sheets[name])
    golden = GOLDEN / f"{name}.{form}"
    if os.environ.get("VLARIG_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def cells_of(text: str) -> list[list[str]]:
    """The cells of all tables of a page of HTML, row by row."""

    class Reader(HTMLParser):
        rows: list[list[str]]
        inside: list[str]
        cell: int

        def handle_starttag(self, tag: str, attributes: list) -> None:
            assert tag != "script"
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.cell = len(self.rows[-1])
                self.rows[-1] += [""] * int(dict(attributes).get("colspan", 1))
            if tag not in ("br", "meta"):
                self.inside.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.inside.pop() == tag

        def handle_data(self, data: str) -> None:
            if self.rows and set(self.inside) & {"td", "th"}:
                self.rows[-1][self.cell] += data

    reader = Reader()
    reader.rows, reader.inside = [], []
    reader.feed(text)
    assert reader.inside == []
    return reader.rows


@pytest.mark.parametrize("name", ["table4", "table7", "runs"])
def test_markdown_and_html_render_to_the_same_table(sheets: dict, name: str) -> None:
    rendered = cells_of(MarkdownIt("commonmark", {"html": True}).enable("table").render(for_markdown(*sheets[name])))
    page = cells_of(for_html(*sheets[name]))
    if name == "table7":  # has headings above headings in HTML, and both in one cell in Markdown
        page = page[1:]
        assert rendered.pop(0)[1] == "R2R Val-UnseenNE ↓"
        assert page.pop(0)[1] == "NE ↓"
    texts = [[cell.replace("\xa0", " ") for cell in row] for row in page]
    assert rendered == texts
    assert {len(row) for row in rendered} == {len(sheets[name][0][0].columns) + (3 if name == "runs" else 1)}


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    sheet = nasty_sheet()
    rendered = cells_of(MarkdownIt("commonmark", {"html": True}).enable("table").render(for_markdown([sheet], "")))
    page = cells_of(for_html([sheet], ""))
    for text in NASTY:
        for rows in (rendered, page):
            heads = text == NASTY[1]  # the corner
            assert sum(row[0].startswith(text) and row[1].startswith(NASTY[0]) for row in rows) == 1 + heads
    assert terminal([sheet], "").count(NASTY[0]) > 5


#: Names of runs, policies and suites, and notes in a manifest, which are untrusted.
HOSTILE = (
    '=HYPERLINK("http://x","y")', "@SUM(1)", "+1+cmd", "-1+1", "\t=1", "a\n\nb", "`x` ``y``", "# x", "- x", "1. x", "    x",
    "~~x~~ &amp; $a$",
)  # fmt: skip


def hostile_sheet(text: str) -> Sheet:
    cells = (Cell("-1.5", ("-2.5", "1e3"), 3), Cell(text, footnotes=(text,)))
    line = Line(text, cells, section=text, footnotes=(text,))
    columns = (Column("number"), Column(text, text))
    return Sheet(text, text, columns, (line,), facts={"policy": text}, warning=text, notes=(text,))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_field_is_a_formula_in_a_spreadsheet(text: str) -> None:
    header, row = csv.reader(io.StringIO(for_csv([hostile_sheet(text)])))
    fields = [*header, *row]
    assert not [each for each in fields if each[:1] in ("=", "+", "@", "-", "\t", "\r", "\n") and each not in ("-1.5", "-2.5")]
    assert {"-1.5", "-2.5", "1e3", "3"} < set(row)
    assert sum(text in each for each in fields) > 5


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_names_and_notes_as_they_are(text: str) -> None:
    """Each paragraph is one, with the expected text."""
    page = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(for_markdown([hostile_sheet(text)], text))
    )
    shown = text.replace("\n", " ").replace("\t", " ").strip()
    for tag in ("h3", "code", "strong", "p"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page)
        assert shown in [html.unescape(each).strip() for each in found], tag
    assert not re.search("<(ul|ol|pre|s|a|h1|em><em)>", page)
    assert page.count("<h3>") == page.count("<table>") == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_has_no_empty_line_in_a_caption_or_a_cell(text: str) -> None:
    body = for_latex([hostile_sheet(text)], text)
    table = body[body.index("\\caption") : body.index("\\end{tabular}")]
    assert "" not in [line.strip() for line in table.splitlines()]
    assert "\t" not in body


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", layout_files())
def test_no_number_is_cut_off_in_a_narrow_terminal(name: str, width: int) -> None:
    layout = make_layout(name, [])
    text = terminal([layout.sheet()], layout.legend, width)
    for line in layout.sheet().lines:
        assert line.label.split()[0] in text
        row = next(each for each in text.splitlines() if line.label[:12] in each and line.cells[-1].text in each)
        assert row.split()[-len(line.cells) :] == [cell.text for cell in line.cells]


def test_headings_and_intervals_stay_whole_in_a_narrow_terminal(tmp_path: Path) -> None:
    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "simpler_widowx")
    run = read_run(play(tmp_path / "run", *suites, per_task=2, success=lambda number: number % 3 == 0))
    layout = make_layout("table11", [("mine", run)])
    sheet = layout.sheet()
    text = terminal([sheet], layout.legend, 60)
    shown = [each for line in sheet.lines for cell in line.cells for each in cell.beside]
    assert len(shown) == 4
    for each in [*shown, *(column.title for column in sheet.columns), *(column.group for column in sheet.columns)]:
        assert each in text


def test_long_names_are_folded_where_the_terminal_is_narrow(tmp_path: Path) -> None:
    task = load_suite("libero_spatial").tasks[0].name
    sheet = run_sheet(run_table(play(tmp_path / "run", "libero_spatial", tasks=(task,), per_task=2)))
    text = terminal([sheet], LEGEND, 80)
    assert max(map(len, text.splitlines())) <= 80 < len(task)
    assert text.count("50.0    9.5 to 90.5  2       0        0") == 2
    assert task in "".join(line.split(" 50.0 ")[0].strip() for line in text.splitlines())
    assert task in terminal([sheet], LEGEND, 150)


@pytest.mark.parametrize("name", ["table4", "table7", "runs"])
def test_csv_is_a_table_of_numbers(sheets: dict, name: str) -> None:
    header, *rows = csv.reader(io.StringIO(for_csv(sheets[name][0])))
    assert {len(row) for row in rows} == {len(header)}
    if name == "table4":
        ours = dict(zip(header, rows[-2], strict=True))
        assert (ours["Method"], ours["Simpler-WidowX"], ours["Simpler-WidowX n"]) == ("mine", "75.0", "384")
        assert float(ours["Simpler-WidowX low"]) < 75 < float(ours["Simpler-WidowX high"])
        assert ours["LIBERO"] == ""
        assert "incomplete: 336 of 384" in rows[-1][-1]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on this machine to compile with")
def test_latex_compiles(sheets: dict, tmp_path: Path) -> None:
    tables = [for_latex(*sheets[name]) for name in sheets]
    tables += [for_latex([layout.sheet()], layout.legend) for layout in (make_layout(name, []) for name in layout_files())]
    tables.append(for_latex([nasty_sheet()], ""))
    body = "\n".join(tables)
    page = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "page.log").read_text(errors="replace")
