"""The paper's tables, with our own rows below the published ones.

One of our rows combines the results of one or more runs under one label: an author sweeps LIBERO in one run and SimplerEnv in the next.
A number is printed only where every episode of the mean has a result; else it is a dash, and a footnote says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..benchmarks.published import PublishedColumn, PublishedRow, PublishedTable, load_table
from ..benchmarks.suite import unknown
from ..envs.errors import VlarigError
from ..envs.plugins import layout_files
from .bootstrap import Unit
from .manifest import SuitePlan, protocol_differences
from .measured_columns import Number, measured_number, shared
from .measures import RunRecords
from .sheet import Cell, Column, Line, Mark, Sheet

#: Heading of the rows that were not published.
OURS = "Measured with vlarig"


@dataclass(frozen=True)
class OurRow:
    """A row of ours.

    Attributes:
        runs: The runs that it combines.
        numbers: Name of a column to the number; columns of which no run played anything are absent.
    """

    label: str
    runs: tuple[RunRecords, ...]
    numbers: Mapping[str, Number]

    @property
    def shared_remarks(self) -> tuple[str, ...]:
        """The remarks that all of its numbers have in common, where these are several."""
        return shared(number.remarks for number in self.numbers.values())


@dataclass(frozen=True)
class Layout:
    """A table of the paper with rows of ours.

    Attributes:
        table: What was published.
        rows: What was measured.
        unit: What the intervals are about: other initial states of these tasks, or other tasks of the kind.
    """

    table: PublishedTable
    rows: tuple[OurRow, ...]
    unit: Unit

    @property
    def legend(self) -> str:
        paper, place = self.table.paper, self.table.place
        published = f"{paper.name}, {place}: as published ({paper.url})"
        if not self.rows:
            return f"{published}. Bold: best; underlined: second best."
        meaning = {
            "initial_state": "how well the mean on these tasks is known (Wilson; a bootstrap over initial states where they repeat)",
            "task": "what is to be expected on tasks like these (bootstrap over tasks)",
        }[self.unit]
        return f"{published}. {OURS}: 95 % intervals, {meaning}; n: episodes. Bold: best; underlined: second best of all rows."

    def sheet(self) -> Sheet:
        """The table for people; without our rows the published ones alone."""
        table, marks = self.table, self.marks()
        lines = [
            Line(
                f"{row.method} ({row.reference})" if row.reference else row.method,
                tuple(self._published_cell(row, column, marks[column.name]) for column in table.columns),
                section=row.group,
            )
            for row in table.rows
        ]
        lines += [
            Line(
                row.label,
                tuple(self._our_cell(row, column, marks[column.name]) for column in table.columns),
                footnotes=(*map(_provenance, row.runs), *row.shared_remarks),
                section=OURS,
            )
            for row in self.rows
        ]
        return Sheet(
            title=table.title,
            corner="Method",
            columns=tuple(Column(column.heading, column.group, column.better) for column in table.columns),
            lines=tuple(lines),
            place=table.place,
            notes=(f"Published under: {table.protocol}.", *(f"Of the paper's table: {note}" for note in table.notes)),
        )

    def marks(self) -> dict[str, dict[str, Mark]]:
        """For each column the numbers, as they are printed, that are best and second best among all rows."""
        return {column.name: _marks(self._printed(column), column.better == "higher") for column in self.table.columns}

    def data(self) -> dict[str, object]:
        """The table for programs: every number in the column's unit, with its source."""
        table, marks = self.table, self.marks()
        published = {(id(number.row), number.column.name): number for number in table.numbers()}
        rows: list[dict[str, object]] = []
        for row in table.rows:
            values = {
                name: {"value": value, "mark": marks[name].get(self._text(value), ""),
                       "source": published[id(row), name].source}
                for name, value in row.values.items()
            }  # fmt: skip
            rows.append({"method": row.method, "reference": row.reference, "kind": row.kind, "group": row.group,
                         "measured": False, "values": values})  # fmt: skip
        for row in self.rows:
            values = {
                name: {"value": number.value, "interval": number.interval, "n": number.n, "runs": number.runs,
                       "ranked": number.ranked, "mark": self._mark(number, marks[name]), "remarks": number.remarks}
                for name, number in row.numbers.items()
            }  # fmt: skip
            rows.append({"method": row.label, "measured": True, "runs": [_provenance(run) for run in row.runs],
                         "values": values})  # fmt: skip
        fields = ("name", "heading", "group", "benchmark", "metric", "unit", "better")
        columns = [{name: getattr(column, name) for name in fields} for column in table.columns]
        return {
            "layout": table.place,
            "title": table.title,
            "paper": table.paper.title,
            "url": table.paper.url,
            "protocol": table.protocol,
            "notes": table.notes,
            "interval_unit": self.unit,
            "columns": columns,
            "rows": rows,
        }

    def _printed(self, column: PublishedColumn) -> list[str]:
        name = column.name
        published = [row.values[name] for row in self.table.rows if name in row.values]
        ours = [row.numbers[name].value for row in self.rows if name in row.numbers and row.numbers[name].ranked]
        return [self._text(value) for value in (*published, *ours) if value is not None]

    def _mark(self, number: Number, marks: Mapping[str, Mark]) -> Mark:
        if number.value is None or not number.ranked:
            return ""
        return marks.get(self._text(number.value), "")

    def _text(self, value: float) -> str:
        return f"{value:.{self.table.decimals}f}"

    def _published_cell(self, row: PublishedRow, column: PublishedColumn, marks: Mapping[str, Mark]) -> Cell:
        if column.name not in row.values:
            return Cell()
        text = self._text(row.values[column.name])
        return Cell(text, mark=marks.get(text, ""))

    def _our_cell(self, row: OurRow, column: PublishedColumn, marks: Mapping[str, Mark]) -> Cell:
        number = row.numbers.get(column.name)
        if number is None:
            return Cell()
        remarks = tuple(remark for remark in number.remarks if remark not in row.shared_remarks)
        if number.value is None:
            return Cell("incomplete", tone="warning", footnotes=remarks)
        text = self._text(number.value)
        interval = None if number.interval is None else (self._text(number.interval[0]), self._text(number.interval[1]))
        return Cell(text, interval, number.n, self._mark(number, marks), footnotes=remarks)


def make_layout(name: str, runs: Iterable[tuple[str, RunRecords]], unit: Unit = "initial_state") -> Layout:
    """The paper's table of that name, with a row for each label, which several runs may share.

    ``unit`` is what the intervals are about: ``initial_state``, other initial states of these tasks; ``task``, other tasks of the kind.
    """
    if name not in (layouts := layout_files()):
        raise unknown("layout", name, layouts, "vlarig table")
    table = load_table(name)
    by_label: dict[str, list[RunRecords]] = {}
    for label, run in runs:
        if run.manifest.record.shard is not None:
            raise VlarigError(
                f"{run.run} is shard {run.manifest.record.shard} of its run; put the shards together with `vlarig runs merge` first"
            )
        by_label.setdefault(label, []).append(run)
    _check_protocols(table, [run for each in by_label.values() for run in each])
    rows = tuple(OurRow(label, tuple(each), _numbers(table, label, each, unit)) for label, each in by_label.items())
    for row in rows:
        if not row.numbers:
            played = dict.fromkeys(plan.name for run in row.runs for plan in run.manifest.identity.suites)
            has = dict.fromkeys(suite for column in table.columns for suite in column.suites)
            raise VlarigError(
                f"{name} has no column for what {', '.join(run.run for run in row.runs)} played, {', '.join(played)}; "
                f"it has columns for {', '.join(has)}"
            )
    return Layout(table, rows, unit)


def _marks(texts: Sequence[str], higher: bool) -> dict[str, Mark]:
    """The best and the second best of some numbers as they are printed; equal ones share a mark. Nothing where all are equal."""
    ranked = sorted({float(text): text for text in texts}.items(), reverse=higher)
    if len(ranked) < 2:
        return {}
    return {ranked[0][1]: "best", ranked[1][1]: "second"}


def _numbers(table: PublishedTable, label: str, runs: Sequence[RunRecords], unit: Unit) -> dict[str, Number]:
    numbers = {column.name: measured_number(column, label, runs, unit) for column in table.columns if column.suites}
    return {name: number for name, number in numbers.items() if number is not None}


def _check_protocols(table: PublishedTable, runs: Sequence[RunRecords]) -> None:
    """Make sure that all runs played a suite under one protocol."""
    wanted = {suite for column in table.columns for suite in column.suites}
    seen: dict[str, tuple[str, SuitePlan]] = {}
    for run in runs:
        for plan in run.manifest.identity.suites:
            if plan.name not in wanted:
                continue
            first, other = seen.setdefault(plan.name, (run.run, plan))
            if other.protocol != plan.protocol:
                raise VlarigError(
                    f"{first} played {plan.name} under {other.protocol_name} and {run.run} under {plan.protocol_name}, which differ in "
                    f"{protocol_differences(other, plan)}; numbers of different protocols do not belong in one table: name runs of one "
                    "protocol, or make a table of each"
                )


def _provenance(run: RunRecords) -> str:
    identity, record = run.manifest.identity, run.manifest.record
    revision = f" ({identity.policy_revision})" if identity.policy_revision else ""
    protocols = ", ".join(dict.fromkeys(f"{plan.name} {plan.protocol_name}" for plan in identity.suites))
    commit = f" at {record.git_revision[:10]}" if record.git_revision else ""
    return (
        f"run {run.run}: policy {identity.policy_label}{revision}; {protocols}; seed {identity.seed}, renderer "
        f"{identity.renderer}, vlarig {identity.vlarig_version}{commit}"
    )
