"""Leaderboards: for each benchmark what was published and what the runs measured, in one table.

One of our numbers is shown only where every episode of the mean has a result, so that nothing incomplete is ranked; else the progress
is shown in its place. A scripted expert, which acts on the simulator's own truth, is sorted among the others by its number, but has no
rank: so a policy is never first only because it is the only one ranked, with better numbers below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...benchmarks.published import TABLES, PublishedColumn, PublishedRow, PublishedTable, load_table
from ..manifest import SuitePlan
from ..matrix import shared_name
from ..measured_columns import Number, measured_number, shared
from ..tables import RunTable, Tally
from . import addresses
from .reading import RunReader

#: The kind of our rows beside the published ones.
MEASURED = "measured"

#: A suite of more tasks has no column for each; they are on the runs' pages.
MOST_TASKS = 12


@dataclass(frozen=True)
class BoardCell:
    """A number, or why there is none.

    Attributes:
        text: The printed text.
        value: The sort key; ``None`` where there is no number comparable with those beside it.
        competes: Whether the number is ranked.
        interval: The 95 % interval, in the column's unit.
        n: Episodes behind it.
        remarks: Remarks on it.
    """

    text: str = "–"
    value: float | None = None
    competes: bool = True
    interval: tuple[float, float] | None = None
    n: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def ranked(self) -> bool:
        """Whether it has a rank in its column."""
        return self.value is not None and self.competes


@dataclass(frozen=True)
class BoardRow:
    """A method, or a run.

    Attributes:
        label: The method; of a run its policy.
        kind: ``measured`` for a run, else what the paper calls the method.
        source: Where the numbers are from, or under which protocol they were measured.
        cells: Name of a column to the number.
        run: Name of the run; empty for what was published.
        link: Page of the run; empty for what was published.
        reference: Citation of the method, as printed.
        reference_link: Where to read it.
    """

    label: str
    kind: str
    source: str
    cells: dict[str, BoardCell]
    run: str = ""
    link: str = ""
    reference: str = ""
    reference_link: str = ""

    @property
    def ranked(self) -> bool:
        return all(cell.ranked for cell in self.cells.values())

    @property
    def shared_remarks(self) -> tuple[str, ...]:
        """The remarks that all of its numbers have in common, where these are several."""
        return shared(cell.remarks for cell in self.cells.values())


@dataclass(frozen=True)
class Board:
    """The leaderboard of a benchmark.

    Attributes:
        name: Name of the benchmark, or of a suite that no published table has.
        columns: What was measured, published or not; the first ranks the rows.
        rows: Best first, ranked or not; what has no number comes last.
        sources: Where published numbers are from and how they were taken, each with its address.
    """

    name: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[BoardRow, ...]
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def kinds(self) -> list[str]:
        """The kinds of rows that there are, in the order in which a reader meets them."""
        return list(dict.fromkeys(row.kind for row in self.rows))

    @property
    def remarks(self) -> list[str]:
        """The remarks on all numbers, each once."""
        return list(dict.fromkeys(remark for row in self.rows for cell in row.cells.values() for remark in cell.remarks))

    @property
    def measured(self) -> bool:
        return any(row.kind == MEASURED for row in self.rows)

    def ranks(self) -> list[int | None]:
        """The rank of each row by the first column; equal numbers share one, and rows that do not compete are skipped.

        A row that competes with no other has none.
        """
        column = self.columns[0]
        cells = [row.cells.get(column.name, BoardCell()) for row in self.rows]
        values = [cell.value if cell.ranked else None for cell in cells]
        if sum(value is not None for value in values) < 2:
            return [None] * len(values)
        better = (lambda a, b: a > b) if column.better == "higher" else (lambda a, b: a < b)
        return [
            None if mine is None else 1 + sum(other is not None and better(other, mine) for other in values) for mine in values
        ]


@dataclass
class _Benchmark:
    """The published columns and rows of a benchmark, collected from all tables."""

    columns: dict[str, PublishedColumn] = field(default_factory=dict)
    rows: list[tuple[PublishedTable, PublishedRow]] = field(default_factory=list)


def make_boards(runs: Sequence[tuple[str, RunReader]]) -> list[Board]:
    """A board for each benchmark: those that runs, each with its id, played first, then the others that were published."""
    benchmarks = _published()
    boards = [_published_board(name, benchmark, runs) for name, benchmark in benchmarks.items()]
    covered = {suite for benchmark in benchmarks.values() for column in benchmark.columns.values() for suite in column.suites}
    boards += _suite_boards(runs, covered)
    return sorted(boards, key=lambda board: not board.measured)


def _published() -> dict[str, _Benchmark]:
    benchmarks: dict[str, _Benchmark] = {}
    for name in TABLES:
        table = load_table(name)
        for column in table.columns:
            benchmark = benchmarks.setdefault(column.benchmark, _Benchmark())
            benchmark.columns.setdefault(column.name, column)
        for row in table.rows:
            for each in dict.fromkeys(column.benchmark for column in table.columns if column.name in row.values):
                benchmarks[each].rows.append((table, row))
    return benchmarks


def _published_board(name: str, benchmark: _Benchmark, runs: Sequence[tuple[str, RunReader]]) -> Board:
    whole = [column for column in benchmark.columns.values() if not column.task]
    columns = [*whole, *(column for column in benchmark.columns.values() if column.task)]
    played = {plan.name for _, reader in runs for plan in reader.manifest.identity.suites}
    suites = [suite for column in whole if len(column.suites) > 1 for suite in column.suites if suite in played]
    shown = [*columns, *(_rate_column(f"suite {suite}", suite, name) for suite in suites)]
    rows = [*_published_rows(benchmark), *_run_rows(columns, suites, runs)]
    sources = {_source_text(table): table.paper.url for table, _ in benchmark.rows}
    return Board(name, tuple(shown), ranked(rows, shown[0]), tuple(sources.items()))


def _rate_column(name: str, heading: str, benchmark: str) -> PublishedColumn:
    """A column of success rates that no published table has."""
    return PublishedColumn(name, heading, benchmark, "%", "higher")


def _published_rows(benchmark: _Benchmark) -> Iterator[BoardRow]:
    for table, row in benchmark.rows:
        cells = {
            name: BoardCell(f"{value:.{table.decimals}f}", value)
            for name, value in row.values.items()
            if name in benchmark.columns
        }
        namesakes = [other for other in table.rows if (other.method, other.reference) == (row.method, row.reference)]
        label = f"{row.method} ({row.group})" if len(namesakes) > 1 else row.method
        yield BoardRow(
            label, row.kind, f"{table.paper.name}, {table.place}", cells,
            reference=row.reference, reference_link=table.paper.references.get(row.reference, ""),
        )  # fmt: skip


def _source_text(table: PublishedTable) -> str:
    notes = "".join(f" {note}" for note in table.notes)
    return f"{table.paper.name}, {table.place} ({table.title}): {table.protocol}.{notes}"


def _run_rows(
    columns: Sequence[PublishedColumn], suites: Sequence[str], runs: Sequence[tuple[str, RunReader]]
) -> Iterator[BoardRow]:
    """A row for each run that played anything of the columns."""
    wanted = {suite for column in columns for suite in column.suites}
    for run, reader in runs:
        table = reader.table()
        plans = [plan for plan in reader.manifest.identity.suites if plan.name in wanted]
        if not plans:
            continue
        cells: dict[str, BoardCell] = {}
        records = reader.records()
        for column in columns:
            if table.shard and column.suites:
                cells[column.name] = _shard_cell(table)
            elif number := measured_number(column, reader.name, [records], "initial_state"):
                cells[column.name] = _our_cell(number, column.unit)
        for suite in table.suites:
            if suite.suite in suites:
                cells[f"suite {suite.suite}"] = _tally_cell(suite.total, table, suite.suite, _repeats(reader, suite.suite))
        yield _run_row(run, reader, plans, cells)


def _our_cell(number: Number, unit: str) -> BoardCell:
    digits = 1 if unit == "%" else 3
    if number.value is None:
        return BoardCell(f"incomplete ({number.n} finished)", n=number.n, remarks=number.remarks)
    return BoardCell(f"{number.value:.{digits}f}", number.value, number.ranked, number.interval, number.n, number.remarks)


def _shard_cell(table: RunTable) -> BoardCell:
    return BoardCell(f"shard {table.shard}", remarks=(f"{table.run} is shard {table.shard} of its run, and is not ranked",))


def _tally_cell(tally: Tally, table: RunTable, suite: str, repeats: bool) -> BoardCell:
    if table.shard:
        return _shard_cell(table)
    if tally.percent is None or not tally.complete:
        counts = f"{tally.finished} of {tally.expected}"
        return BoardCell(f"incomplete ({counts})", n=tally.finished)
    rate, low, high = tally.percent
    identity = table.manifest.identity
    remarks = [
        *(["initial states repeat, which the interval counts as further ones"] if repeats else []),
        *(f"{suite}: {note}" for note in [table.manifest.record.suite_notes.get(suite)] if note),
        *identity.policy_notes(),
    ]
    competes = not identity.policy_privileged
    return BoardCell(f"{rate:.1f}", rate, competes, (low, high), tally.finished, tuple(remarks))


def _repeats(reader: RunReader, suite: str) -> bool:
    return any(totals.repeats for key, totals in reader.tasks.items() if key.suite == suite)


def _run_row(run: str, reader: RunReader, plans: Sequence[SuitePlan], cells: dict[str, BoardCell]) -> BoardRow:
    identity = reader.manifest.identity
    protocols = ", ".join(dict.fromkeys(plan.protocol_name for plan in plans))
    return BoardRow(identity.policy_label, MEASURED, protocols, cells, reader.name, addresses.run_page(run))


def _suite_boards(runs: Sequence[tuple[str, RunReader]], covered: set[str]) -> list[Board]:
    """A board for each suite that no published table has, and for each protocol of it, as ``vlarig table`` makes a matrix."""
    boards: dict[tuple[str, str], list[_Played]] = {}
    columns: dict[tuple[str, str], dict[str, PublishedColumn]] = {}
    for run, reader in runs:
        table = reader.table()
        for suite, plan in zip(table.suites, reader.manifest.identity.suites, strict=True):
            if suite.suite in covered:
                continue
            place = plan.conditions
            cells = {"all": _tally_cell(suite.total, table, suite.suite, _repeats(reader, suite.suite))}
            named = columns.setdefault(place, {"all": _rate_column("all", "all tasks", suite.suite)})
            for row in suite.rows:
                name = f"task {row.task}/{row.variant}"
                named.setdefault(name, _rate_column(name, row.label, suite.suite))
                cells[name] = _tally_cell(row.tally, table, suite.suite, repeats=False)
            row = _run_row(run, reader, [plan], cells)
            boards.setdefault(place, []).append(_Played(row, plan, _episodes(reader, plan)))
    made = []
    for (suite, conditions), rows in boards.items():
        every = tuple(columns[suite, conditions].values())
        shown = every if len(every) <= 1 + MOST_TASKS else every[:1]
        name = f"{suite}, {shared_name([each.plan for each in rows])}"
        made.append(Board(name, shown, ranked(_over_the_same_episodes(rows, every), shown[0])))
    return made


@dataclass(frozen=True)
class _Played:
    """A run's row, the suite as it was planned, and the finished episodes behind each cell."""

    row: BoardRow
    plan: SuitePlan
    episodes: Mapping[str, frozenset[str]]


def _episodes(reader: RunReader, plan: SuitePlan) -> dict[str, frozenset[str]]:
    """The finished episodes behind each column, without the name of their protocol: ``task/variant/initial state/repeat``."""
    tasks = {
        f"task {task.task}/{task.variant}": frozenset(key.split("/", 2)[2] for key in reader.tasks[task].outcomes)
        for task in plan.planned
    }
    return {"all": frozenset[str]().union(*tasks.values())} | tasks


def _over_the_same_episodes(rows: Sequence[_Played], columns: Sequence[PublishedColumn]) -> list[BoardRow]:
    """The rows; where one has a rate over other episodes than most have, that is not comparable."""
    common: dict[str, frozenset[str]] = {}
    for column in columns:
        counts = Counter(each.episodes[column.name] for each in rows if _number(each.row, column) is not None)
        common[column.name] = max(counts, key=lambda episodes: (counts[episodes], len(episodes)), default=frozenset())
    checked = []
    for each in rows:
        cells = dict(each.row.cells)
        for column in columns:
            own, most = each.episodes.get(column.name), common[column.name]
            if own is not None and own != most and _number(each.row, column) is not None:
                remark = (
                    f"{each.row.run} has other episodes of {column.heading} ({len(own)}) than most here ({len(most)}): no rank"
                )
                cell = cells[column.name]
                cells[column.name] = replace(cell, value=None, remarks=(*cell.remarks, remark))
        checked.append(replace(each.row, cells=cells))
    return checked


def _number(row: BoardRow, column: PublishedColumn) -> float | None:
    return row.cells.get(column.name, BoardCell()).value


def ranked(rows: Iterable[BoardRow], column: PublishedColumn) -> tuple[BoardRow, ...]:
    """The rows, best first by a column; those without a number last, in the order that they came in."""

    def place(row: BoardRow) -> tuple[bool, float]:
        value = _number(row, column)
        return (value is None, 0.0 if value is None else -value if column.better == "higher" else value)

    return tuple(sorted(rows, key=place))
