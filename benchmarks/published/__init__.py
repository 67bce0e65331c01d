"""Numbers that the paper publishes, as data: a TOML file for each table, and for each figure whose numbers the text states.

They are given as printed. Nothing is computed, converted or completed, marks (bold, underlined) are the paper's own, and
where they or the text are odd a note states it. What robots did outside a simulator (Tables 5 and 6) is left out.

>>> table = load_table("table4")
>>> row = table.rows[3]
>>> row.method, row.kind, row.values["libero"]
('π0.5', 'specialist', 97.6)
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from ...envs.plugins import layout_files
from ..suite import unknown

#: The tables, in the paper's order.
TABLES = (
    "table4", "table7", "table8", "table9", "figure6a", "figure6b", "figure6c", "figure7a", "table10", "table11", "table12",
)  # fmt: skip

#: A method's kind, in the paper's words: trained for one benchmark or for all (section 5.1.1), fine-tuned for what
#: is tested or not (5.1.4, 5.1.5), an open-source baseline with neither stated (5.1.3), or a variant of the paper's own (5.2).
Kind = Literal["specialist", "generalist", "fine-tuned", "zero-shot", "baseline", "ablation"]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class PublishedPaper:
    """Where numbers were published.

    Attributes:
        name: Short name.
        title: Full title.
        authors: The authors to name.
        url: Where to read it.
        references: Citation as printed to its address, as far as the paper gives one.
    """

    name: str
    title: str
    authors: str
    year: int
    url: str
    references: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class PublishedColumn:
    """What was measured.

    Attributes:
        name: Name, the same wherever the same quantity was measured.
        heading: Heading as printed, without its arrow.
        benchmark: Name of the benchmark.
        unit: Unit of the values; ``points`` for a score that has none.
        better: Which values are better.
        metric: What the values are.
        group: Heading above that of several columns; empty where there is none.
        suites: Names of our suites over which it is the mean; empty where we have none.
        task: Name of the task of that suite; empty for all of them.
        suite_protocol: Name of the protocol of those suites that corresponds to the paper's.
    """

    name: str
    heading: str
    benchmark: str
    unit: str
    better: Literal["higher", "lower"]
    metric: str = "success rate"
    group: str = ""
    suites: tuple[str, ...] = ()
    task: str = ""
    suite_protocol: str = ""


@dataclass(frozen=True, config=_CONFIG)
class PublishedRow:
    """A method and its numbers.

    Attributes:
        values: Name of a column to the number; a column is missing where a dash is printed.
        reference: Citation as printed; empty for the paper's own.
        group: Heading above it; empty where there is none.
        bold: Names of the columns whose number is printed bold.
        underlined: Names of the columns whose number is printed underlined.
    """

    method: str
    kind: Kind
    values: dict[str, float]
    reference: str = ""
    group: str = ""
    bold: tuple[str, ...] = ()
    underlined: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        without = [name for name in (*self.bold, *self.underlined) if name not in self.values]
        if without:
            raise ValueError(f"row {self.method!r} marks columns that it has no number in: {', '.join(without)}")


@dataclass(frozen=True, config=_CONFIG)
class PublishedNumber:
    """One number with all that describes it.

    Attributes:
        value: The number, in the column's unit.
        text: The number as printed.
        column: What was measured.
        row: Of which method.
        protocol: How, as far as the paper states it.
        source: Paper, table, row and column.
    """

    value: float
    text: str
    column: PublishedColumn
    row: PublishedRow
    protocol: str
    source: str


@dataclass(frozen=True, config=_CONFIG)
class PublishedTable:
    """A table of a paper.

    Attributes:
        paper: Where it is published.
        place: Number of the table or figure.
        title: What it shows, in our words.
        protocol: How the numbers were taken, as far as the paper states it.
        columns: What was measured.
        rows: The methods, in the paper's order.
        decimals: Digits after the point that are printed.
        methods: Whether methods are printed as rows, or as columns.
        notes: What to know beside the numbers.
    """

    paper: PublishedPaper
    place: str
    title: str
    protocol: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]
    decimals: int = 1
    methods: Literal["rows", "columns"] = "rows"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"two columns of {self.place} have the same name among {', '.join(names)}")
        for row in self.rows:
            if not set(names).issuperset(row.values):
                raise ValueError(f"row {row.method!r} of {self.place} has values for {', '.join(row.values)}; columns: {names}")

    def numbers(self) -> Iterator[PublishedNumber]:
        """Every number, row by row; dashes are left out."""
        for row in self.rows:
            for column in self.columns:
                if column.name in row.values:
                    value = row.values[column.name]
                    source = self._source(row, column)
                    yield PublishedNumber(value, f"{value:.{self.decimals}f}", column, row, self.protocol, source)

    def _source(self, row: PublishedRow, column: PublishedColumn) -> str:
        method = " > ".join(filter(None, [row.group, row.method]))
        measured = " > ".join(filter(None, [column.group, column.heading]))
        printed_row, printed_column = (measured, method) if self.methods == "columns" else (method, measured)
        return f"{self.paper.name}, {self.place}, row {printed_row!r}, column {printed_column!r}"


def load_table(name: str) -> PublishedTable:
    """The table of that name: one of :data:`TABLES`, or a plug-in's layout.

    A plug-in's file holds its ``paper``, too; ours share one.
    """
    files = {own: Path(__file__).parent / f"{own}.toml" for own in TABLES} | layout_files()
    if name not in files:
        raise unknown("published table", name, files, "this installation")
    table = {"paper": _read(files[name].with_name("paper.toml"))} if name in TABLES else {}
    return TypeAdapter(PublishedTable).validate_python(table | _read(files[name]))


def _read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))
