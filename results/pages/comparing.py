"""The page that compares two runs, and the list of episodes in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from ...envs.errors import VlarigError
from ..comparison import Compared, Comparison, compare_records, points, points_range
from . import addresses
from .reading import RunReader


@dataclass(frozen=True)
class ComparedRow:
    """A suite or a task in two runs, as text; rates are there where both runs are complete.

    Attributes:
        label: Name of the suite or task.
        total: Whether it is a suite.
        complete: Whether both runs are.
        n: Episodes that both finished.
        gained: Episodes that the second run alone solved.
        lost: Episodes that the first run alone solved.
        first: Success rate of the first run, in percent.
        second: Success rate of the second run, in percent.
        difference: Second minus first, in points.
        interval: Its 95 % interval.
        bounds: Difference and interval as numbers in points, for the chart; ``None`` where there is no interval.
    """

    label: str
    total: bool
    complete: bool
    n: int
    gained: int
    lost: int
    first: str = "–"
    second: str = "–"
    difference: str = "–"
    interval: str = "–"
    bounds: tuple[float, float, float] | None = None


def comparable_pairs(runs: Sequence[tuple[str, RunReader]]) -> list[tuple[str, str]]:
    """Ids of the pairs of runs that played a suite under the same protocol, in the order of the site."""
    plans = [(run, {plan.name: plan.protocol for plan in reader.manifest.identity.suites}) for run, reader in runs]
    return [
        (first, second)
        for (first, ours), (second, theirs) in combinations(plans, 2)
        if any(theirs.get(name) == protocol for name, protocol in ours.items())
    ]


def comparison_of(first: RunReader, second: RunReader) -> Comparison | str:
    """The comparison, or the sentence on why there is none."""
    try:
        return compare_records(first.records(), second.records())
    except VlarigError as error:
        return str(error)


def comparison_rows(comparison: Comparison) -> list[ComparedRow]:
    """Each suite and its tasks."""
    rows = []
    for suite in comparison.suites:
        rows.append(_row(suite, f"{suite.suite} {suite.protocol}", total=True))
        rows += [_row(part, part.tasks[0][0].label, total=False) for part in suite.each_task()]
    return rows


def _row(part: Compared, label: str, total: bool) -> ComparedRow:
    pairs = part.pairs
    row = ComparedRow(label, total, part.complete, pairs.n, pairs.gained, pairs.lost)
    if not part.complete or pairs.rates is None or pairs.difference is None:
        return row
    first, second = (f"{100 * rate:.1f}" for rate in pairs.rates)
    row = replace(row, first=first, second=second, difference=points(pairs.difference))
    interval = part.interval()
    if interval is None:
        return row
    low, high = 100 * interval[0], 100 * interval[1]
    return replace(row, interval=points_range(interval), bounds=(100 * pairs.difference, low, high))


def flips_data(comparison: Comparison, first: str, second: str) -> dict[str, Any]:
    """The episodes that one run alone solved, for the list on the page."""
    return {
        "first": {"id": first, "name": comparison.first.run},
        "second": {"id": second, "name": comparison.second.run},
        "gained": [key for suite in comparison.suites for key in suite.gained],
        "lost": [key for suite in comparison.suites for key in suite.lost],
    }


def partners(run: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The runs that a run is compared with: their ids, and the pages."""
    return [
        (first if second == run else second, addresses.comparison_page(first, second))
        for first, second in pairs
        if run in (first, second)
    ]
