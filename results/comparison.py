"""Two runs on the same episodes: which of them flipped, by how much the success rates differ, and whether that can be chance.

A run plays an episode that is a function of its key, so two policies can be compared initial state by initial state. What is hard for
both says nothing about which is better and drops out; what remains are the episodes that flipped. Where the policies find the same
episodes hard, that needs fewer episodes than a comparison of two rates. All differences are the second run's value minus the first's.

Where a task is not complete in both runs there is no difference of it or of its suite, but a list of what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..envs.errors import VlarigError
from .bootstrap import Mean, clustered_mean
from .manifest import SuitePlan, identity_differences, protocol_differences
from .measures import Incomplete, RunRecords, TaskRecords, check_metric, gap_of, mean_or_gap, metric_value, read_run
from .records import EpisodeRecord, TaskKey, split_key
from .statistics import detectable_difference, mcnemar_p_value, tango_interval

#: How the parts of a run's identity begin that say which episodes it consists of and what played them.
_COMPARED = ("suites", "order of", "episodes", "policy", "seed")


@dataclass(frozen=True)
class Pairs:
    """Episodes that both runs finished, counted by what came of them.

    Attributes:
        both: Success in both runs.
        gained: Success in the second run alone.
        lost: Success in the first run alone.
        neither: Success in none.
    """

    both: int = 0
    gained: int = 0
    lost: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        return self.both + self.gained + self.lost + self.neither

    @property
    def rates(self) -> tuple[float, float] | None:
        """The success rates of the first and the second run; ``None`` without episodes."""
        return ((self.both + self.lost) / self.n, (self.both + self.gained) / self.n) if self.n else None

    @property
    def difference(self) -> float | None:
        """Second rate minus first rate; ``None`` without episodes."""
        return (self.gained - self.lost) / self.n if self.n else None


@dataclass(frozen=True, eq=False)
class Compared:
    """Some tasks of a suite in both runs: all of them, or one.

    Attributes:
        tasks: The records of the first and the second run for each task that both have, in the order of the first.
    """

    suite: str
    protocol: str
    tasks: tuple[tuple[TaskRecords, TaskRecords], ...]

    def each_task(self) -> list[Compared]:
        """The same for each task alone."""
        return [Compared(self.suite, self.protocol, (task,)) for task in self.tasks]

    @property
    def complete(self) -> bool:
        """Whether both runs have a result for each of their episodes of these tasks. Else there are counts, but no rates."""
        return self.gaps == (None, None)

    @property
    def gaps(self) -> tuple[Incomplete | None, Incomplete | None]:
        """What the first and the second run lack of these tasks."""
        return gap_of([first for first, _ in self.tasks]), gap_of([second for _, second in self.tasks])

    @property
    def unmatched(self) -> int:
        """Episodes that one run alone finished; they are no part of the comparison."""
        return sum(len(first.records.keys() ^ second.records.keys()) for first, second in self.tasks)

    @property
    def repeats(self) -> bool:
        """Whether initial states repeat; then episodes are not independent of each other, and McNemar's test does not apply."""
        return len({split_key(key)[:5] for key in self._both}) < len(self._both)

    @property
    def gained(self) -> list[str]:
        """Keys of the episodes with success in the second run alone, sorted."""
        return self._with_success(False, True)

    @property
    def lost(self) -> list[str]:
        """Keys of the episodes with success in the first run alone, sorted."""
        return self._with_success(True, False)

    @property
    def pairs(self) -> Pairs:
        """The episodes that both runs finished; a progress count where they are not complete."""
        return Pairs(
            both=len(self._with_success(True, True)),
            gained=len(self.gained),
            lost=len(self.lost),
            neither=len(self._with_success(False, False)),
        )

    @property
    def interval_method(self) -> str:
        """What :meth:`interval` is."""
        return "bootstrap by initial state 95 %" if self.repeats else "tango 95 %"

    def interval(self) -> tuple[float, float] | None:
        """The interval of the difference of the success rates on these tasks, from initial states like these.

        Tango's where no initial state repeats, and the bootstrap's over initial states elsewhere; ``None`` where the tasks are not
        complete, or have no episode in common, or where the bootstrap gives none.
        """
        if not self.complete or not self._both:
            return None
        if self.repeats:
            return clustered_mean(self._differences("success"), "initial_state").interval
        return tango_interval(self.pairs.gained, self.pairs.lost, self.pairs.n)

    def p_value(self) -> float | None:
        """McNemar's exact p-value; ``None`` where the tasks are not complete or have no episode in common, or where one repeats."""
        if not self.complete or not self._both or self.repeats:
            return None
        return mcnemar_p_value(self.pairs.gained, self.pairs.lost)

    def detectable_difference(self) -> float | None:
        """The smallest difference that this number of episodes and flips would show four times in five.

        ``None`` where the tasks are not complete, where initial states repeat, or where the episodes are too few for any.
        """
        n, flips = self.pairs.n, self.pairs.gained + self.pairs.lost
        return detectable_difference(n, flips / n) if self.complete and not self.repeats and n else None

    def on_tasks_like_these(self) -> Mean | None:
        """The difference of the success rates, with the bootstrap's interval over tasks; ``None`` where they are not complete."""
        return clustered_mean(self._differences("success"), "task") if self.complete and self._both else None

    def metric(self, name: str) -> MetricComparison | None:
        """The comparison of another metric; ``None`` where the tasks are not complete."""
        if not self.complete or not self._both:
            return None
        differences = self._differences(name)
        return MetricComparison(
            name,
            first=mean_or_gap({key: metric_value(one, name) for key, (one, _) in self._both.items()}, "initial_state"),
            second=mean_or_gap({key: metric_value(other, name) for key, (_, other) in self._both.items()}, "initial_state"),
            by_initial_state=mean_or_gap(differences, "initial_state"),
            by_task=mean_or_gap(differences, "task"),
        )

    @cached_property
    def _both(self) -> dict[str, tuple[EpisodeRecord, EpisodeRecord]]:
        """The records of the episodes that both runs finished, by key, sorted."""
        return {
            key: (first.records[key], second.records[key])
            for first, second in self.tasks
            for key in sorted(first.records.keys() & second.records.keys())
        }

    def _with_success(self, *outcomes: bool) -> list[str]:
        return [key for key, (one, other) in self._both.items() if (one.success, other.success) == outcomes]

    def _differences(self, metric: str) -> dict[str, float]:
        """Second minus first for each episode, by key; NaN where one of them has no number."""
        return {key: metric_value(other, metric) - metric_value(one, metric) for key, (one, other) in self._both.items()}


@dataclass(frozen=True)
class MetricComparison:
    """A metric other than success over the episodes that both runs finished.

    Attributes:
        first: Its mean in the first run, sampled by initial state.
        second: Its mean in the second run, sampled by initial state.
        by_initial_state: Second minus first, on these tasks, from initial states like these.
        by_task: The same, on tasks like these.
    """

    name: str
    first: Mean | Incomplete
    second: Mean | Incomplete
    by_initial_state: Mean | Incomplete
    by_task: Mean | Incomplete


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs.

    Attributes:
        suites: The suites that both have, in the order of the first.
        notes: Lines below the numbers: other differences of the runs, and what is left out.
    """

    first: RunRecords
    second: RunRecords
    suites: tuple[Compared, ...]
    notes: tuple[str, ...]


def compare_runs(first_dir: Path, second_dir: Path, metric: str | None = None) -> Comparison:
    """The comparison of the runs in two folders; of a metric besides success, where one is named, which both runs must have."""
    if first_dir.resolve() == second_dir.resolve():
        raise VlarigError(f"{first_dir} is compared with itself; name two runs")
    return compare_records(read_run(first_dir), read_run(second_dir), metric)


def compare_records(first: RunRecords, second: RunRecords, metric: str | None = None) -> Comparison:
    """The same for runs that were read already."""
    plans = _common_suites(first, second)
    played, second = second, _named_as(first, second)
    suites = tuple(_suite(plan, first, second) for plan in plans)
    if not any(suite.pairs.n for suite in suites):
        raise VlarigError(
            f"{first.run} and {second.run} have no finished episode in common; give both sweeps the same suites, tasks and episodes"
        )
    _check_scenes(first, played)
    if metric is not None:
        check_metric(first, metric)
        check_metric(second, metric)
    return Comparison(first, second, suites, tuple(_notes(first, second, suites)))


def _common_suites(first: RunRecords, second: RunRecords) -> list[SuitePlan]:
    """The first run's plans of the suites that both have, which are the same in both but for the tasks."""
    ours, theirs = ({plan.name: plan for plan in run.manifest.identity.suites} for run in (first, second))
    common = [plan for name, plan in ours.items() if name in theirs]
    if not common:
        raise VlarigError(
            f"{first.run} and {second.run} have no suite in common: the first has {', '.join(ours)}, the second {', '.join(theirs)}"
        )
    for plan in common:
        other = theirs[plan.name]
        if plan.conditions != other.conditions:
            raise VlarigError(
                f"{first.run} played {plan.name} under {plan.protocol_name}, {second.run} under {other.protocol_name}, which differ in "
                f"{protocol_differences(plan, other)}; only runs under the same protocol can be compared"
            )
    return common


def _named_as(first: RunRecords, second: RunRecords) -> RunRecords:
    """The second run with keys that name the first one's protocols, where they differ in the steps of a chunk that are run."""
    names = {plan.name: plan.protocol_name for plan in first.manifest.identity.suites}
    tasks: dict[TaskKey, TaskRecords] = {}
    for task, own in second.tasks.items():
        renamed = task._replace(protocol=names.get(task.suite, task.protocol))
        records = {key.replace(f"/{task.protocol}/", f"/{renamed.protocol}/", 1): each for key, each in own.records.items()}
        tasks[renamed] = replace(own, key=renamed, records=records)
    return replace(second, tasks=tasks)


def _suite(plan: SuitePlan, first: RunRecords, second: RunRecords) -> Compared:
    tasks = tuple((first.tasks[key], second.tasks[key]) for key in plan.planned if key in second.tasks)
    return Compared(plan.name, plan.protocol_name, tasks)


def _check_scenes(first: RunRecords, second: RunRecords) -> None:
    """Make sure that the same keys mean the same scenes, where both runs are complete and consist of the same keys.

    Runs whose protocols have different names have other keys.
    """
    runs = (first, second)
    if any(gap_of(list(run.tasks.values())) for run in runs):
        return
    keys, others = ({key for task in run.tasks.values() for key in task.records} for run in runs)
    if keys == others and first.manifest.identity.episodes_digest != second.manifest.identity.episodes_digest:
        raise VlarigError(
            f"{first.run} and {second.run} played episodes of the same names in different scenes; sweep both with the same vlarig and "
            "the same data files"
        )


def _notes(first: RunRecords, second: RunRecords, suites: Sequence[Compared]) -> list[str]:
    """Differences of the runs besides the policy, what is left out, and the runs' own notes."""
    differences = identity_differences(first.manifest.identity, second.manifest.identity)
    notes = [
        f"the runs also differ in {name}: {one} against {other}"
        for name, one, other in differences
        if not name.startswith(_COMPARED)
    ]
    ours, theirs = (
        {plan.name: plan.protocol["n_action_steps"] for plan in run.manifest.identity.suites} for run in (first, second)
    )
    notes += [
        f"{name}: {steps} steps of a chunk are run in {first.run}, {theirs[name]} in {second.run}"
        for name, steps in ours.items()
        if theirs.get(name, steps) != steps
    ]
    for run, other in ((first, second), (second, first)):
        alone = [f"{key.suite} {key.task}" for key in run.tasks if key not in other.tasks]
        if alone:
            notes.append(f"in {run.run} alone, and left out: {', '.join(alone[:3])}{' and others' if len(alone) > 3 else ''}")
    notes += [
        f"{suite.suite}: {suite.unmatched} episodes are finished in one run alone, and left out"
        for suite in suites
        if suite.unmatched
    ]
    return list(dict.fromkeys([*notes, *first.manifest.notes(), *second.manifest.notes()]))


def findings(suite: Compared) -> list[str]:
    """Findings on a suite besides its rates, as sentences without full stops."""
    lacking = [f"the {place} run is {gap}" for place, gap in zip(("first", "second"), suite.gaps, strict=True) if gap]
    if lacking:
        return ["; ".join([*lacking, "complete them (give their commands again, merge their shards), then compare"])]
    pairs, p_value, detectable = suite.pairs, suite.p_value(), suite.detectable_difference()
    lines: list[str] = []
    if not pairs.n:
        lines.append("the runs have no episode in common")
    elif p_value is None:
        lines.append(
            "initial states repeat, so the interval is the bootstrap's over initial states, and there is no McNemar test"
        )
    else:
        p_text = f"= {p_value:.3f}" if p_value >= 0.001 else "< 0.001"
        lines.append(f"McNemar's exact p {p_text} ({pairs.gained} gained, {pairs.lost} lost)")
    if detectable:
        shown = f"differences from {100 * detectable:.1f} points on show four times in five"
        lines.append(f"with so many flips in {pairs.n} episodes, {shown}")
    by_task = suite.on_tasks_like_these()
    if by_task:
        lines.append(f"on tasks like these: {points(by_task.value)}, {_with_interval(by_task)}")
    return lines


def _with_interval(mean: Mean) -> str:
    sampled = f"bootstrap over {mean.clusters} {mean.unit}s"
    return f"{points_range(mean.interval)} ({sampled})" if mean.interval else f"no interval ({sampled}: too few, or all alike)"


def points(difference: float) -> str:
    """A difference of rates as it is printed, in points."""
    return f"{100 * difference:+.1f}"


def points_range(interval: tuple[float, float] | None) -> str:
    """An interval of such a difference; a dash where there is none."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}" if interval else "-"
