"""The page that compares two runs, and the list of episodes in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

from ...envs.errors import VlarigError
from ..comparison import Comparison, compare_records
from ..measures import RunRecords
from . import addresses
from .reading import RunReader

#: Which pairs of runs have a page.
Which = Literal["best", "all", "none"]


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
    groups: dict[tuple[str, str], list[tuple[str, RunReader]]] = {}
    for run, reader in runs:
        for plan in reader.manifest.identity.suites:
            groups.setdefault(plan.conditions, []).append((run, reader))
    return [(name, members) for (name, _), members in groups.items()]


def _standing(reader: RunReader, suite: str) -> tuple[bool, bool, float]:
    """The sort key of a suite's best run: whether its policy is ranked, whether it is complete, its success rate."""
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
    conditions = {plan.conditions for plan in one.manifest.identity.suites}
    return {plan.name for plan in other.manifest.identity.suites if plan.conditions in conditions}


def _rate(reader: RunReader, suites: set[str]) -> float:
    totals = [suite.total for suite in reader.table().suites if suite.suite in suites]
    return sum(total.successes for total in totals) / max(1, sum(total.finished for total in totals))


def comparison_of(first: RunReader, second: RunReader) -> Comparison | str:
    """The comparison, or the reason why there is none."""
    try:
        return compare_records(first.records(), second.records())
    except VlarigError as error:
        return str(error)


def flips_data(comparison: Comparison, first: str, second: str) -> dict[str, Any]:
    """The episodes that one run alone solved, for the list on the page."""
    return {
        "first": _run_data(first, comparison.first),
        "second": _run_data(second, comparison.second),
        "gained": [key for suite in comparison.suites for key in suite.gained],
        "lost": [key for suite in comparison.suites for key in suite.lost],
    }


def _run_data(run: str, records: RunRecords) -> dict[str, Any]:
    """A run for the list: its id, its name, and each suite's protocol, which its own keys name."""
    protocols = {plan.name: plan.protocol_name for plan in records.manifest.identity.suites}
    return {"id": run, "name": records.run, "protocols": protocols}


def partners(run: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The runs that a run is compared with: their ids, and the pages."""
    return [
        (first if second == run else second, addresses.comparison_page(first, second))
        for first, second in pairs
        if run in (first, second)
    ]
