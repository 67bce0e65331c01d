"""The page that compares two runs, and the list of episodes in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from ...envs.errors import VlarigError
from ..comparison import Compared, Comparison, compare_records, points, points_range
from ..manifest import SuitePlan
from . import addresses
from .reading import RunReader

#: Which pairs of runs have a page.
Which = Literal["best", "all", "none"]


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


def comparable(one: RunReader, other: RunReader) -> bool:
    """Whether both runs played a suite under the same protocol."""
    return bool(_shared(one, other))


def chosen_pairs(runs: Sequence[tuple[str, RunReader]], which: Which) -> list[tuple[str, str]]:
    """Ids of the pairs of runs that have a page, in the order of the site; of each pair the run with the higher rate is second.

    Args:
        runs: Ids and runs.
        which: ``best``: each run beside the best of those that played a suite under the same protocol; ``all``: each pair of those;
            ``none``.
    """
    if which == "none":
        return []
    if which == "all":
        return [_directed(one, other) for one, other in combinations(runs, 2) if comparable(one[1], other[1])]
    pairs: dict[tuple[str, str], None] = {}
    for name, group in _groups(runs):
        best = max(sorted(group, key=lambda each: each[1].manifest.record.created), key=lambda each: _standing(each[1], name))
        pairs |= dict.fromkeys(_directed(each, best) for each in group if each is not best)
    return list(pairs)


def _groups(runs: Sequence[tuple[str, RunReader]]) -> list[tuple[str, list[tuple[str, RunReader]]]]:
    """Each suite, under each protocol that it was played under, with its runs."""
    groups: list[tuple[SuitePlan, list[tuple[str, RunReader]]]] = []
    for run, reader in runs:
        for plan in reader.manifest.identity.suites:
            for known, members in groups:
                if (known.name, known.protocol) == (plan.name, plan.protocol):
                    members.append((run, reader))
                    break
            else:
                groups.append((plan, [(run, reader)]))
    return [(plan.name, members) for plan, members in groups]


def _standing(reader: RunReader, suite: str) -> tuple[bool, bool, float]:
    """What the best run of a suite has most of: whether its policy competes, whether it is complete, its success rate."""
    total = next(each.total for each in reader.table().suites if each.suite == suite)
    whole = total.complete and reader.manifest.record.shard is None
    return not reader.manifest.identity.policy_privileged, whole, total.rate or 0.0


def _directed(one: tuple[str, RunReader], other: tuple[str, RunReader]) -> tuple[str, str]:
    """The ids of two runs: the one with the lower rate on what both played first; where they are equal, the older one."""
    shared = _shared(one[1], other[1])
    (first, _), (second, _) = sorted((one, other), key=lambda each: (_rate(each[1], shared), each[1].manifest.record.created))
    return first, second


def _shared(one: RunReader, other: RunReader) -> set[str]:
    """The suites that both runs played under the same protocol."""
    plans = {plan.name: plan.protocol for plan in one.manifest.identity.suites}
    return {plan.name for plan in other.manifest.identity.suites if plans.get(plan.name) == plan.protocol}


def _rate(reader: RunReader, suites: set[str]) -> float:
    totals = [suite.total for suite in reader.table().suites if suite.suite in suites]
    return sum(total.successes for total in totals) / max(1, sum(total.finished for total in totals))


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
