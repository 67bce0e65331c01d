"""The published numbers are the paper's: every cell of its tables, both ways, with dashes and marks, and what it states of figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest

from vlarig.benchmarks import published
from vlarig.benchmarks.published import TABLES, PublishedColumn, PublishedRow, PublishedTable, load_table
from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError

#: The paper's text beside the checkout, where a machine has it.
PAPER = Path(__file__).parents[3] / "shared" / "paper" / "qwen-vla.md"

#: Number of a table to its lines of headings, and its columns before the numbers.
LAYOUTS = {4: (2, 2), 7: (2, 1), 8: (2, 1), 9: (1, 1), 10: (2, 1), 11: (2, 1), 12: (1, 1)}

DASHES = ("–", "—")


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False
    underlined: bool = False


@pytest.fixture(scope="module")
def paper() -> str:
    if not PAPER.is_file():
        pytest.skip(f"the paper's text is not beside the checkout ({PAPER})")
    return PAPER.read_text(encoding="utf-8")


# The tables as they are printed


def read_cell(raw: str) -> Cell:
    text = raw.strip()
    bold, underlined = text.startswith("<b>"), text.startswith("<u>")
    return Cell(re.sub(r"</?[bu]>", "", text), bold, underlined)


def read_method(raw: str) -> tuple[str, str]:
    """Name and citation."""
    text = re.sub(r"\$\\pi_\{?([\d.]+)\}?\$", r"π\1", read_cell(raw).text).replace(" -", "-")
    name, citation = re.fullmatch(r"(.*?)(?: \(([^()]+, \d{4}[a-z]?)\))?", text).groups()
    return name, citation or ""


def carried_on(cells: list[str]) -> list[str]:
    """A heading is over the cells up to the next."""
    filled: list[str] = []
    for cell in cells:
        filled.append(cell or (filled[-1] if filled else ""))
    return filled


def read_headings(lines: list[list[str]], labels: int) -> list[tuple[str, str]]:
    """For each column of numbers the two headings above it, with its arrow."""
    width = max(map(len, lines))
    rows = [[*line, *[""] * (width - len(line))][labels:] for line in lines]
    if len(rows) == 1:
        return [("", heading) for heading in rows[0]]
    above = carried_on(rows[0])
    return [(group, heading) if heading else ("", group) for group, heading in zip(above, rows[1], strict=True)]


def printed(paper: str, number: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[list[Cell]]]:
    """A table's headings and its rows' labels, each with the heading above it, and its cells."""
    header, labels = LAYOUTS[number]
    lines = paper.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(f"Table {number}:"))
    body = [line.split("\t") for line in takewhile(lambda line: line.strip(), lines[first + 2 :])]
    headings = read_headings(body[:header], labels)
    rows, cells, group = [], [], ""
    for line in body[header:]:
        if not any(line[1:]):
            group = re.sub(r"</?i>", "", line[0])
            continue
        if labels == 2:
            group = line[1] or group
        rows.append((group, line[0]))
        cells.append([read_cell(raw) for raw in line[labels:]])
    assert {len(line) for line in cells} == {len(headings)}
    return headings, rows, cells


def without_arrow(heading: str) -> tuple[str, str]:
    """The heading, and which values are better where it says so."""
    text = heading.replace(r"$\uparrow$", "↑").replace(r"$\downarrow$", "↓")
    better = "higher" if "↑" in text else "lower" if "↓" in text else ""
    return text.strip(" ↑↓"), better


def of_paper(paper: str, number: int, table: PublishedTable) -> dict:
    """What the paper prints: method to column to cell, each by its names; in the order of the paper."""
    headings, rows, cells = printed(paper, number)
    measured = [(group, without_arrow(heading)[0]) for group, heading in headings]
    if table.methods == "columns":
        methods = [(group, heading, "") for group, heading in headings]
        measured, cells = rows, [list(column) for column in zip(*cells, strict=True)]
    else:
        methods = [(group, *read_method(label)) for group, label in rows]
    assert len(set(methods)) == len(methods)
    return {method: dict(zip(measured, line, strict=True)) for method, line in zip(methods, cells, strict=True)}


def of_data(table: PublishedTable) -> dict:
    """The same of our data."""

    def cell(row: PublishedRow, column: PublishedColumn) -> Cell:
        if column.name not in row.values:
            return Cell("–")
        value = f"{row.values[column.name]:.{table.decimals}f}"
        return Cell(value, column.name in row.bold, column.name in row.underlined)

    return {
        (row.group, row.method, row.reference): {(column.group, column.heading): cell(row, column) for column in table.columns}
        for row in table.rows
    }


@pytest.mark.parametrize("number", LAYOUTS)
def test_every_cell_is_the_papers_and_every_cell_of_the_paper_is_there(paper, number):
    table = load_table(f"table{number}")
    ours, theirs = of_data(table), of_paper(paper, number, table)
    theirs = {
        method: {column: Cell("–") if cell.text in DASHES else cell for column, cell in line.items()}
        for method, line in theirs.items()
    }
    assert list(ours) == list(theirs)
    for method in theirs:
        assert list(ours[method].items()) == list(theirs[method].items()), f"row {method} of Table {number}"


@pytest.mark.parametrize("number", [number for number in LAYOUTS if number != 10])
def test_directions_are_those_of_the_arrows(paper, number):
    headings, _, _ = printed(paper, number)
    arrows = [without_arrow(heading)[1] for _, heading in headings]
    table = load_table(f"table{number}")
    assert any(arrows) == (number in (7, 9))
    assert [column.better for column in table.columns] == [arrow or "higher" for arrow in arrows]


@pytest.mark.parametrize("number", [4, 7, 8, 9])
def test_rows_without_a_citation_are_the_papers_own_whose_names_it_prints_bold(paper, number):
    _, rows, _ = printed(paper, number)
    own = [row.method for row in load_table(f"table{number}").rows if not row.reference]
    assert own == [read_method(label)[0] for _, label in rows if read_cell(label).bold] != []


def test_kinds_follow_the_headings_that_rows_stand_under():
    kinds = {(row.group, row.kind) for name in ("table4", "table9") for row in load_table(name).rows}
    assert kinds == {
        ("Specialist", "specialist"),
        ("Generalist", "generalist"),
        ("Fine-tuned on dynamic manipulation data", "fine-tuned"),
        ("Zero-shot to dynamic manipulation", "zero-shot"),
    }


# What the text states of figures

#: Name and method to the words in which the text gives the number.
STATED = {
    ("figure6a", "0 % synthetic, full sequences"): "purely real T2A data yields {}%",
    ("figure6a", "10 % synthetic, full sequences"): "At 10% synthetic data, the gap is +4.94 pp ({}% vs. 60.42%)",
    ("figure6a", "20 % synthetic, full sequences"): "Mixing ~20% synthetic with 80% real achieves the best result ({}%)",
    ("figure6a", "100 % synthetic, full sequences"): "purely synthetic data reaches {}%",
    ("figure6a", "0 % synthetic, chunks"): "at 0% synthetic (real-only) the gap is +2.86 pp (51.04% vs. {}%)",
    ("figure6a", "10 % synthetic, chunks"): "the same setting without images reaches {}%",
    ("figure6a", "10 % synthetic, chunks, with images"): "at 10% synthetic data, chunk prediction with images scores {}%",
    (
        "figure6b",
        "Sigmoid-Normal at T2A, Beta at SFT",
    ): "at T2A combined with Beta p at SFT achieves the highest success rate ({}%)",
    ("figure6b", "Beta at T2A"): "Swapping to Beta at T2A drops performance to {}%",
    ("figure6b", "Sigmoid-Normal at T2A and SFT"): "using Sigmoid-Normal at SFT instead of Beta yields {}%",
    ("figure6b", "Beta at T2A and SFT"): "Beta at both stages—reaches only {}%",
    ("figure6c", "2,000 steps"): "performance peaks at 2,000 steps ({}%)",
    ("figure6c", "4,000 steps"): "remains comparable at 4,000 steps ({}%)",
    ("figure6c", "10,000 steps"): "and 10,000 steps ({}%)",
    ("figure6c", "40,000 steps"): "At 40,000 steps we observe a notable degradation to {}%",
}


def plain(text: str) -> str:
    """The text without its formulas' signs."""
    for sign, read in {r"p(\tau)": "p", r"\sim": "~", r"\%": "%", r"\rightarrow": "to", "$": "", "−": "-"}.items():
        text = text.replace(sign, read)
    return re.sub(r"(?<=~) +", "", re.sub(r"\s+", " ", text))


def test_numbers_of_figure_6_are_what_the_text_says_of_each(paper):
    text = plain(paper)
    numbers = {(name, row.method): number.text for name in TABLES[4:7] for row, number in by_row(load_table(name))}
    assert numbers.keys() == STATED.keys()
    assert not {key: words for key, words in STATED.items() if words.format(numbers[key]) not in text}


def by_row(table: PublishedTable):
    return [(number.row, number) for number in table.numbers()]


@pytest.mark.parametrize("panel", ["a", "b", "c"])
def test_no_number_that_the_text_states_of_figure_6_is_missing(paper, panel):
    lines = [plain(line) for line in paper.splitlines() if f"Fig. 6({panel})" in line]
    stated = {number for line in lines for number in re.findall(r"(\d+\.\d\d)%", line)}
    assert stated == {number.text for number in load_table(f"figure6{panel}").numbers()}


def test_numbers_of_figure_7_are_what_its_caption_states(paper):
    caption = next(plain(line) for line in paper.splitlines() if line.startswith("Figure 7:"))
    stated = re.findall(r"on ([\w.-]+) \(([\d.]+)% to ([\d.]+)%\)", caption)
    only, mixed = load_table("figure7a").rows
    columns = load_table("figure7a").columns
    assert stated == [(column.heading, str(only.values[column.name]), str(mixed.values[column.name])) for column in columns]


def test_references_are_in_the_papers_own_list(paper):
    cited = paper.partition("## References")[2].splitlines()
    references = load_table("table4").paper.references
    used = {row.reference for name in TABLES for row in load_table(name).rows}
    assert references.keys() <= used
    for citation, url in references.items():
        authors, year = re.match(r"(\w+)(?: et al\.)?, (\d{4}[a-z]?)", citation).groups()
        (line,) = [line for line in cited if url.rpartition("/")[2] in line]
        assert authors in line.partition(". ")[0] and year in line


# What holds whether the paper is at hand or not


def test_there_are_as_many_tables_as_files_and_as_many_numbers_as_were_counted_by_hand():
    folder = Path(published.__file__).parent
    assert sorted([*TABLES, "paper"]) == sorted(path.stem for path in folder.glob("*.toml"))
    counts = {name: len(list(load_table(name).numbers())) for name in TABLES}
    assert counts == {
        "table4": 32, "table7": 46, "table8": 21, "table9": 32, "figure6a": 7, "figure6b": 4, "figure6c": 4, "figure7a": 4,
        "table10": 8, "table11": 24, "table12": 6,
    }  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_what_corresponds_to_suites_of_ours_exists(name):
    for column in load_table(name).columns:
        for suite in map(load_suite, column.suites):
            assert suite.protocol(column.suite_protocol)
            assert not column.task or suite.task(column.task)
        assert bool(column.suites) == bool(column.suite_protocol)
        if column.benchmark in ("LIBERO", "SimplerEnv", "SimplerEnv-OOD"):
            assert column.suites


def test_every_task_of_the_out_of_distribution_suite_has_its_column():
    tasks = [column.task for column in load_table("table8").columns]
    assert tasks == [*(task.name for task in load_suite("simpler_ood").tasks), ""]


def test_checkpoints_have_the_same_numbers_wherever_they_are_printed():
    stages = {row.method: row.values for row in load_table("table11").rows}
    for name in ("table4", "table8", "table9"):
        for row in load_table(name).rows:
            stage = {"Qwen-VLA-Base": "CPT", "Qwen-VLA-Instruct": "+ RL"}.get(row.method)
            if stage:
                shared = row.values.keys() & stages[stage].keys()
                assert shared
                assert {column: row.values[column] for column in shared} == {column: stages[stage][column] for column in shared}


@pytest.mark.parametrize("name", ["figure6a", "figure6b", "figure6c"])
def test_rates_of_figure_6_are_counts_of_the_episodes_of_our_protocol(name):
    table = load_table(name)
    (column,) = table.columns
    (suite,) = map(load_suite, column.suites)
    episodes = len(suite.episodes(protocol=suite.protocol(column.suite_protocol)))
    assert episodes == 384
    possible = {f"{100 * successes / episodes:.2f}" for successes in range(episodes + 1)}
    assert {number.text for number in table.numbers()} <= possible


def test_a_number_describes_itself():
    number = next(number for number in load_table("table4").numbers() if number.row.method == "ABot-M0")
    assert (number.value, number.text, number.row.kind, number.column.suites[0]) == (
        98.6,
        "98.6",
        "specialist",
        "libero_spatial",
    )
    assert number.source == "Qwen-VLA, Table 4, row 'Specialist > ABot-M0', column 'Benchmark > LIBERO'"
    assert "StarVLA" in number.protocol
    *_, last = load_table("table10").numbers()
    assert last.source == "Qwen-VLA, Table 10, row 'Robocasa', column 'Multi-Embodiment Co-training > Zero-Pad'"


def test_names_that_do_not_exist_are_met_with_an_offer():
    with pytest.raises(VlarigError, match=r"unknown published table 'table5' .*did you mean table"):
        load_table("table5")


def row_of(**changes) -> PublishedRow:
    return PublishedRow(**({"method": "m", "kind": "baseline", "values": {"a": 1.0}} | changes))


def table_of(*rows: PublishedRow, columns=("a",)) -> PublishedTable:
    made = tuple(PublishedColumn(name, name, "B", "%", "higher") for name in columns)
    return PublishedTable(load_table("table4").paper, "Table 0", "t", "p", made, rows)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: row_of(bold=("b",)), "row 'm' marks columns that it has no number in: b"),
        (lambda: row_of(kind="expert"), "kind"),
        (lambda: row_of(values={"a": float("nan")}), "finite"),
        (lambda: row_of(note="new"), "note"),
        (lambda: table_of(row_of(values={"b": 1.0})), "row 'm' of Table 0 has values for b"),
        (lambda: table_of(row_of(), columns=("a", "a")), "two columns of Table 0 have the same name"),
    ],
)
def test_rows_and_tables_that_cannot_be_are_refused(build, says):
    with pytest.raises((ValueError, TypeError), match=says):
        build()
