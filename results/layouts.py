"""The paper's tables, with rows of our own below the published ones.

A row of ours is what one or more runs measured, put together under one label: an author sweeps LIBERO in one run and SimplerEnv in the
next. A number is there where every episode that it is the mean of has a result; else it is a dash, and a footnote says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..benchmarks.published import PublishedColumn, PublishedRow, PublishedTable, load_table
from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite, unknown
from ..envs.errors import VlarigError
from .bootstrap import Unit, clustered_mean
from .manifest import SuitePlan
from .measures import Incomplete, RunRecords, TaskRecords, gap_of, metric_value
from .sheet import Cell, Column, Line, Mark, Sheet
from .statistics import wilson_interval

#: The paper's tables that numbers of ours can stand in.
LAYOUTS = ("table4", "table7", "table8", "table9", "table11")

#: Heading of the rows that were not published.
OURS = "Measured with vlarig"


@dataclass(frozen=True)
class Number:
    """What runs measured for a column, in the column's unit.

    Attributes:
        value: The mean over all episodes; ``None`` where some have no result.
        interval: Its 95 % interval; ``None`` where there is no value, or where the starts or tasks are too few to tell.
        n: Episodes with a result.
        runs: Names of the runs that it is from.
        remarks: What must be said of it: what is missing, and in what it differs from the published numbers.
        ranked: Whether it competes with the others; not where the policy acts on the simulator's own truth.
    """

    value: float | None
    interval: tuple[float, float] | None
    n: int
    runs: tuple[str, ...]
    remarks: tuple[str, ...]
    ranked: bool = True


@dataclass(frozen=True)
class OurRow:
    """A row of ours.

    Attributes:
        label: Its label.
        runs: What it is made of.
        numbers: Name of a column to the number; a column is missing of which no run played anything.
    """

    label: str
    runs: tuple[RunRecords, ...]
    numbers: Mapping[str, Number]

    @property
    def shared_remarks(self) -> tuple[str, ...]:
        """What must be said of each of its numbers, where these are several."""
        first, *others = self.numbers.values()
        return tuple(remark for remark in first.remarks if others and all(remark in other.remarks for other in others))


@dataclass(frozen=True)
class Layout:
    """A table of the paper with rows of ours.

    Attributes:
        table: What was published.
        rows: What was measured.
        unit: What the intervals are about: other starts of these tasks, or other tasks of the kind.
    """

    table: PublishedTable
    rows: tuple[OurRow, ...]
    unit: Unit

    @property
    def legend(self) -> str:
        """What the numbers are."""
        paper, place = self.table.paper, self.table.place
        published = f"{paper.name}, {place}: as published ({paper.url})"
        if not self.rows:
            return f"{published}. Bold: best; underlined: second best."
        meaning = {
            "start": "how well the mean on these tasks is known (Wilson; where starts repeat a bootstrap over starts)",
            "task": "what is to be expected on tasks like these (bootstrap over tasks)",
        }[self.unit]
        return f"{published}. {OURS}: 95 % intervals, {meaning}; n: episodes. Bold: best; underlined: second best of all rows."

    def sheet(self) -> Sheet:
        """The table for people; without rows of ours the published ones alone."""
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
        columns = [
            {"name": column.name, "heading": column.heading, "group": column.group, "benchmark": column.benchmark,
             "metric": column.metric, "unit": column.unit, "better": column.better}
            for column in table.columns
        ]  # fmt: skip
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


def make_layout(name: str, runs: Iterable[tuple[str, RunRecords]], unit: Unit = "start") -> Layout:
    """The paper's table of that name, with a row for each label.

    Args:
        name: One of :data:`LAYOUTS`.
        runs: Labels and runs; runs of one label make one row.
        unit: What the intervals are about: ``start``, other starts of these tasks; ``task``, other tasks of the kind.

    Raises:
        VlarigError: There is no such layout; a run is a shard; two runs of a label played the same suite; two runs played a suite
            under different protocols; nothing that was played has a column; or scipy is not installed where it is needed.
    """
    if name not in LAYOUTS:
        raise unknown("layout", name, LAYOUTS, "vlarig table")
    table = load_table(name)
    by_label: dict[str, list[RunRecords]] = {}
    for label, run in runs:
        if run.manifest.record.shard is not None:
            raise VlarigError(
                f"{run.run} is shard {run.manifest.record.shard} of its run; put the shards together with `vlarig merge` first"
            )
        by_label.setdefault(label, []).append(run)
    _check_protocols(table, [run for each in by_label.values() for run in each])
    rows = tuple(OurRow(label, tuple(each), _numbers(table, label, each, unit)) for label, each in by_label.items())
    for row in rows:
        if not row.numbers:
            played = dict.fromkeys(plan.name for run in row.runs for plan in run.manifest.identity.suites)
            has = dict.fromkeys(suite for column in table.columns for suite in column.suites)
            wanted = f"it has columns for {', '.join(has)}" if has else "its benchmarks are not among our suites yet"
            raise VlarigError(
                f"{name} has no column for what {', '.join(run.run for run in row.runs)} played, {', '.join(played)}; {wanted}"
            )
    return Layout(table, rows, unit)


def _marks(texts: Sequence[str], higher: bool) -> dict[str, Mark]:
    """The best and the second best of some numbers as they are printed; equal ones share a mark. Nothing where all are equal."""
    ranked = sorted({float(text): text for text in texts}.items(), reverse=higher)
    if len(ranked) < 2:
        return {}
    return {ranked[0][1]: "best", ranked[1][1]: "second"}


def _numbers(table: PublishedTable, label: str, runs: Sequence[RunRecords], unit: Unit) -> dict[str, Number]:
    numbers = {column.name: _number(column, label, runs, unit) for column in table.columns if column.suites}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(column: PublishedColumn, label: str, runs: Sequence[RunRecords], unit: Unit) -> Number | None:
    """What the runs of a row measured for a column; ``None`` where they played nothing of it."""
    parts = {suite: part for suite in column.suites if (part := _part(column, suite, label, runs)) is not None}
    if not parts:
        return None
    remarks: list[str] = []
    unplayed = [suite for suite in column.suites if suite not in parts]
    if unplayed:
        remarks.append(f"incomplete: {', '.join(unplayed)} not played")
    tasks: list[TaskRecords] = []
    for suite, part in parts.items():
        tasks += part.tasks
        lacking = _lacking(load_suite(suite), column, part)
        remarks += [f"{suite} {text}" for text in lacking]
    complete = not remarks
    remarks += _differences(column, list(parts.values()))
    identities = [part.run.manifest.identity for part in parts.values()]
    remarks += dict.fromkeys(note for identity in identities for note in identity.policy_notes())
    ranked = complete and not any(identity.policy_privileged for identity in identities)
    names = tuple(dict.fromkeys(part.run.run for part in parts.values()))
    n = sum(len(task.records) for task in tasks)
    metric = _metric(column)
    values = {key: metric_value(record, metric) for task in tasks for key, record in task.records.items()}
    if complete:
        counts = {len(task.records) for task in tasks}
        if len(counts) > 1:
            remarks.append("its tasks have unlike many episodes; every episode weighs the same")
        scale = 100.0 if column.unit == "%" else 1.0
        mean = sum(values.values()) / n
        interval = _interval(values, metric, unit)
        scaled = None if interval is None else (scale * interval[0], scale * interval[1])
        if unit == "task" and interval is None:
            remarks.append("too few tasks, or all alike, for an interval over tasks")
        return Number(scale * mean, scaled, n, names, tuple(remarks), ranked)
    return Number(None, None, n, names, tuple(remarks), ranked)


@dataclass(frozen=True)
class _Part:
    """What a run has of a suite, or of one of its tasks."""

    run: RunRecords
    plan: SuitePlan
    tasks: list[TaskRecords]


def _part(column: PublishedColumn, suite: str, label: str, runs: Sequence[RunRecords]) -> _Part | None:
    parts = []
    for run in runs:
        for plan in run.manifest.identity.suites:
            wanted = plan.name == suite
            tasks = [task for key, task in run.tasks.items() if key.suite == suite and column.task in ("", key.task)]
            if wanted and tasks:
                parts.append(_Part(run, plan, tasks))
    if len(parts) > 1:
        names = " and ".join(dict.fromkeys(part.run.run for part in parts))
        raise VlarigError(
            f"{names} both played {suite} for the row {label!r}; give each a row of its own, as in 'second try'=RUN"
        )
    return parts[0] if parts else None


def _lacking(suite: Suite, column: PublishedColumn, part: _Part) -> list[str]:
    """What the number of a suite lacks, in words."""
    played = {task.key.task for task in part.tasks}
    absent = [task.name for task in suite.tasks if task.name not in played and column.task in ("", task.name)]
    said = [f"incomplete: not played: {', '.join(absent)}"] if absent else []
    gap = gap_of(part.tasks)
    if gap is None:
        records = {key: record for task in part.tasks for key, record in task.records.items()}
        metric = _metric(column)
        unmeasured = tuple(sorted(key for key, record in records.items() if not math.isfinite(metric_value(record, metric))))
        gap = Incomplete(len(records), len(records), 0, unmeasured) if unmeasured else None
    return said if gap is None else [*said, str(gap)]


def _metric(column: PublishedColumn) -> str:
    """What our records call that which the column is of."""
    return "success" if column.metric == "success rate" else column.metric.replace(" ", "_")


def _differences(column: PublishedColumn, parts: Sequence[_Part]) -> list[str]:
    """In what a number differs from the published ones beside it; what holds for several suites is said once."""
    suites_of: dict[str, list[str]] = {}
    assets: dict[str, None] = {}
    for part in parts:
        suite, manifest = load_suite(part.plan.name), part.run.manifest
        own_note = manifest.record.suite_notes.get(suite.name, "")
        for remark in filter(None, [_other_protocol(column, part.plan), _other_count(suite, part), own_note]):
            suites_of.setdefault(remark, []).append(suite.name)
        bundles = tuple(f"{bundle} assets" for bundle in suite.assets)
        assets |= dict.fromkeys(note for note in manifest.identity.asset_notes() if note.startswith(bundles))
    return [*(f"{', '.join(suites)}: {remark}" for remark, suites in suites_of.items()), *assets]


def _other_protocol(column: PublishedColumn, plan: SuitePlan) -> str:
    """That a run's protocol is not the published numbers'; empty where it is."""
    named = plan.protocol.get("derived_from") or plan.protocol["name"]
    if column.suite_protocol and named != column.suite_protocol:
        return f"protocol {plan.protocol_name}; the protocol {column.suite_protocol} stands for the published numbers'"
    return f"protocol {plan.protocol_name}, derived from {named}" if plan.protocol.get("derived_from") else ""


def _other_count(suite: Suite, part: _Part) -> str:
    """That a run plays fewer episodes, or more, than the protocol says; empty where it plays as many."""
    known = [protocol for protocol in suite.protocols if f"{protocol.name}@{protocol.version}" == part.plan.protocol_name]
    standard = {
        (task.expected, len(suite.task(task.key.task).starts_of(protocol)) * protocol.repeats)
        for protocol in known
        for task in part.tasks
    }
    if all(played == wanted for played, wanted in standard):
        return ""
    played, wanted = (" or ".join(map(str, sorted(counts))) for counts in map(set, zip(*standard, strict=True)))
    return f"{played} episode{'' if played == '1' else 's'} a task, where {part.plan.protocol_name} has {wanted}"


def _interval(values: Mapping[str, float], metric: str, unit: Unit) -> tuple[float, float] | None:
    starts = {key.rpartition("/")[0] for key in values}
    if unit == "start" and metric == "success" and len(starts) == len(values):
        return wilson_interval(round(sum(values.values())), len(values))
    return clustered_mean(values, unit).interval


def _check_protocols(table: PublishedTable, runs: Sequence[RunRecords]) -> None:
    """Make sure that all runs played a suite under one protocol.

    Raises:
        VlarigError: Two did not.
    """
    wanted = {suite for column in table.columns for suite in column.suites}
    seen: dict[str, tuple[str, str]] = {}
    for run in runs:
        for plan in run.manifest.identity.suites:
            if plan.name not in wanted:
                continue
            first, protocol = seen.setdefault(plan.name, (run.run, plan.protocol_name))
            if protocol != plan.protocol_name:
                raise VlarigError(
                    f"{first} played {plan.name} under {protocol} and {run.run} under {plan.protocol_name}; numbers of different "
                    "protocols do not belong in one table: name runs of one protocol, or make a table of each"
                )


def _provenance(run: RunRecords) -> str:
    """Where a row's numbers are from."""
    identity, record = run.manifest.identity, run.manifest.record
    revision = f" ({identity.policy_revision})" if identity.policy_revision else ""
    protocols = ", ".join(dict.fromkeys(f"{plan.name} {plan.protocol_name}" for plan in identity.suites))
    commit = f" at {record.git_revision[:10]}" if record.git_revision else ""
    return (
        f"run {run.run}: policy {identity.policy_label}{revision}; {protocols}; seed {identity.seed}, renderer "
        f"{identity.renderer}, vlarig {identity.vlarig_version}{commit}"
    )
