"""What runs measured for a column of a published table: the number, its interval, and remarks on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..benchmarks.published import PublishedColumn
from ..benchmarks.registry import load_suite
from ..benchmarks.suite import TRAINING, Suite
from ..envs.errors import VlarigError
from .bootstrap import Unit, clustered_mean
from .manifest import SuitePlan
from .measures import RunRecords, TaskRecords, gap_of, metric_values, unmeasured
from .statistics import wilson_interval


@dataclass(frozen=True)
class Number:
    """What runs measured for a column, in the column's unit.

    Attributes:
        value: The mean over all episodes; ``None`` where some have no result.
        interval: Its 95 % interval; ``None`` where there is no value, or where the initial states or tasks are too few.
        n: Episodes with a result.
        runs: Names of the runs that it is from.
        remarks: What is missing, and how it differs from the published numbers.
        ranked: Whether it is ranked; not where it is incomplete or the policy acts on the simulator's own truth.
    """

    value: float | None
    interval: tuple[float, float] | None
    n: int
    runs: tuple[str, ...]
    remarks: tuple[str, ...]
    ranked: bool = True


def shared(remarks: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The remarks that several numbers have in common, from those of each; none where there is one number."""
    first, *others = [*remarks] or [()]
    return tuple(remark for remark in first if others and all(remark in other for other in others))


@dataclass(frozen=True)
class _Part:
    """What a run has of a suite, or of one of its tasks."""

    run: RunRecords
    plan: SuitePlan
    tasks: list[TaskRecords]


def measured_number(column: PublishedColumn, label: str, runs: Sequence[RunRecords], unit: Unit) -> Number | None:
    """What the ``runs`` of a row measured for a column; ``None`` where they played nothing of it. ``label`` is for messages.

    ``unit`` is what the interval is about: ``initial_state``, other initial states of these tasks; ``task``, other tasks of the kind.
    """
    parts = [part for suite in column.suites if (part := _part(column, suite, label, runs)) is not None]
    if not parts:
        return None
    metric = _metric(column)
    tasks = [task for part in parts for task in part.tasks]
    values = metric_values(tasks, metric)
    identities = [part.run.manifest.identity for part in parts]
    names = tuple(dict.fromkeys(part.run.run for part in parts))
    lacking = list(_lacking(column, parts, metric))
    advantages = dict.fromkeys(note for identity in identities for note in identity.policy_notes())
    remarks = [*lacking, *_differences(column, parts), *advantages]
    if lacking:
        return Number(None, None, len(values), names, tuple(remarks), ranked=False)
    if len({len(task.records) for task in tasks}) > 1:
        remarks.append("its tasks have different numbers of episodes; every episode weighs the same")
    interval = _interval(values, metric, unit)
    if unit == "task" and interval is None:
        remarks.append("too few tasks, or all alike, for an interval over tasks")
    scale = 100.0 if column.unit == "%" else 1.0
    return Number(
        value=scale * sum(values.values()) / len(values),
        interval=None if interval is None else (scale * interval[0], scale * interval[1]),
        n=len(values),
        runs=names,
        remarks=tuple(remarks),
        ranked=not any(identity.policy_privileged for identity in identities),
    )


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


def _lacking(column: PublishedColumn, parts: Sequence[_Part], metric: str) -> Iterator[str]:
    played = {part.plan.name for part in parts}
    unplayed = [suite for suite in column.suites if suite not in played]
    if unplayed:
        yield f"incomplete: {', '.join(unplayed)} not played"
    for part in parts:
        suite = load_suite(part.plan.name)
        if any(task.key.variant == TRAINING for task in part.tasks):
            yield f"{suite.name} incomplete: played from initial states for training, which no published number is of"
        tasks = {task.key.task for task in part.tasks}
        others = [task for task in suite.tasks if task.initial_states_under.get(part.plan.base_protocol) == ()]
        wanted = [task.name for task in suite.tasks if task not in others and column.task in ("", task.name)]
        absent = [name for name in wanted if name not in tasks]
        if absent:
            yield f"{suite.name} incomplete: not played: {', '.join(absent)}"
        gap = gap_of(part.tasks) or unmeasured(metric_values(part.tasks, metric))
        if gap is not None:
            yield f"{suite.name} {gap}"


def _metric(column: PublishedColumn) -> str:
    """The name of the column's metric in our records."""
    return "success" if column.metric == "success rate" else column.metric.replace(" ", "_")


def _differences(column: PublishedColumn, parts: Sequence[_Part]) -> list[str]:
    """How a number differs from the published ones beside it; a remark on several suites is given once."""
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
    """A remark where a run's protocol differs from the published numbers'; else empty."""
    named = plan.base_protocol
    if column.suite_protocol and named != column.suite_protocol:
        return f"protocol {plan.protocol_name}; the published numbers' is {column.suite_protocol}"
    return f"protocol {plan.protocol_name}, derived from {named}" if plan.protocol.get("derived_from") else ""


def _other_count(suite: Suite, part: _Part) -> str:
    """A remark where a run plays another number of episodes than the protocol says; else empty."""
    if suite.read_states is not None:  # its data say how many there are, and the suite's note how many are official
        return ""
    known = [protocol for protocol in suite.protocols if f"{protocol.name}@{protocol.version}" == part.plan.protocol_name]
    standard = {
        (task.expected, len(suite.task(task.key.task).initial_states_of(protocol)) * protocol.repeats)
        for protocol in known
        for task in part.tasks
    }
    if all(played == wanted for played, wanted in standard):
        return ""
    played, wanted = (" or ".join(map(str, sorted(counts))) for counts in map(set, zip(*standard, strict=True)))
    return f"{played} episode{'' if played == '1' else 's'} a task, where {part.plan.protocol_name} has {wanted}"


def _interval(values: Mapping[str, float], metric: str, unit: Unit) -> tuple[float, float] | None:
    initial_states = {key.rpartition("/")[0] for key in values}
    if unit == "initial_state" and metric == "success" and len(initial_states) == len(values):
        return wilson_interval(round(sum(values.values())), len(values))
    return clustered_mean(values, unit).interval
