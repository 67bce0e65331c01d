"""What a run measured of a suite, episode by episode; and what it lacks, which is reported and never averaged away."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.suite import unknown
from .bootstrap import Mean, Unit, clustered_mean
from .ledger import Ledger
from .manifest import Manifest
from .records import EpisodeRecord, TaskKey
from .run_files import run_name
from .tables import counted_table

#: Fields of every record that can be averaged; a benchmark's own metrics come on top.
FIELDS = ("success", "reward", "steps", "primitives")


@dataclass(frozen=True)
class Incomplete:
    """Why there is no mean.

    Attributes:
        expected: Episodes that are to be averaged over.
        finished: Those with a result.
        errors: Those that were given up for reasons that are not the policy's.
        unmeasured: Keys of finished ones whose metric is absent or no finite number, sorted.
    """

    expected: int
    finished: int
    errors: int = 0
    unmeasured: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Episodes without a result yet."""
        return self.expected - self.finished - self.errors

    def __str__(self) -> str:
        lacking = [f"{self.errors} errors"] * (self.errors > 0) + [f"{self.missing} missing"] * (self.missing > 0)
        if self.unmeasured:
            lacking.append(f"{len(self.unmeasured)} without a finite number, such as {self.unmeasured[0]}")
        return f"incomplete: {self.finished} of {self.expected} episodes finished, {', '.join(lacking)}"


@dataclass(frozen=True, eq=False)
class TaskRecords:
    """A run's records of a task.

    Attributes:
        key: Which task.
        expected: Episodes that the whole run consists of; also where the folder holds a shard.
        errors: Episodes that were given up for reasons that are not the policy's.
        records: The finished ones by their keys, without actions.
    """

    key: TaskKey
    expected: int
    errors: int
    records: Mapping[str, EpisodeRecord]

    @property
    def label(self) -> str:
        """The task's name, with its variation where it has one."""
        return self.key.task if self.key.variant == "base" else f"{self.key.task} ({self.key.variant})"


@dataclass(frozen=True, eq=False)
class RunRecords:
    """A run's records.

    Attributes:
        tasks: Its tasks, in the order of the manifest.
    """

    run: str
    manifest: Manifest
    tasks: Mapping[TaskKey, TaskRecords]

    def metric_names(self) -> list[str]:
        """What can be averaged: the fields of every record, then the benchmarks' own metrics, sorted."""
        own = {name for task in self.tasks.values() for record in task.records.values() for name in record.metrics}
        return [*FIELDS, *sorted(own)]


def read_run(run_dir: Path) -> RunRecords:
    """All records of the run in ``run_dir``, finished or not."""
    manifest = Manifest.load(run_dir)
    with Ledger.open_read_only(run_dir) as ledger:
        counted_table(run_dir, manifest, ledger.counts())  # says so where they do not belong together
        given_up = ledger.error_keys()  # before the records: what finishes in between is no error
        records = {record.key: record for record in ledger.records()}
    finished: dict[TaskKey, dict[str, EpisodeRecord]] = {}
    for key, record in records.items():
        finished.setdefault(TaskKey.of(key), {})[key] = record
    errors = Counter(TaskKey.of(key) for key in given_up if key not in records)
    return task_records(run_name(run_dir), manifest, errors, finished)


def task_records(
    run: str, manifest: Manifest, errors: Counter[TaskKey], finished: Mapping[TaskKey, Mapping[str, EpisodeRecord]]
) -> RunRecords:
    planned = manifest.identity.planned.items()
    tasks = {task: TaskRecords(task, count, errors[task], finished.get(task, {})) for task, count in planned}
    return RunRecords(run, manifest, tasks)


def suite_mean(run: RunRecords, suite: str, metric: str = "success", unit: Unit = "task") -> Mean | Incomplete:
    """The mean of a metric, one of :meth:`RunRecords.metric_names`, over all episodes of a suite; or what is missing for it.

    ``unit`` is what the bootstrap samples as a whole (:mod:`vlarig.results.bootstrap`).
    """
    tasks = [task for key, task in run.tasks.items() if key.suite == suite]
    if not tasks:
        raise unknown("suite", suite, list(dict.fromkeys(key.suite for key in run.tasks)), f"the run {run.run}")
    check_metric(run, metric)
    return gap_of(tasks) or mean_or_gap(metric_values(tasks, metric), unit)


def gap_of(tasks: Sequence[TaskRecords]) -> Incomplete | None:
    """What is lacking of some tasks; ``None`` where each of their episodes has a result."""
    expected, finished = sum(task.expected for task in tasks), sum(len(task.records) for task in tasks)
    return None if finished == expected else Incomplete(expected, finished, sum(task.errors for task in tasks))


def mean_or_gap(values: Mapping[str, float], unit: Unit) -> Mean | Incomplete:
    """The mean of the episodes' ``values``, by key; or which of them are no finite numbers."""
    return unmeasured(values) or clustered_mean(values, unit)


def unmeasured(values: Mapping[str, float]) -> Incomplete | None:
    """Which of the episodes' ``values``, by key, are no finite numbers; ``None`` where all are."""
    keys = tuple(sorted(key for key, value in values.items() if not math.isfinite(value)))
    return Incomplete(len(values), len(values), 0, keys) if keys else None


def metric_values(tasks: Iterable[TaskRecords], metric: str) -> dict[str, float]:
    """The metric of each finished episode of some tasks, by key; NaN where it has none."""
    return {key: metric_value(record, metric) for task in tasks for key, record in task.records.items()}


def check_metric(run: RunRecords, metric: str) -> None:
    """Make sure that at least one episode has the metric."""
    names = run.metric_names()
    if metric not in names:
        raise unknown("metric", metric, names, f"the run {run.run}")


def metric_value(record: EpisodeRecord, metric: str) -> float:
    """The record's metric; NaN where it has none."""
    return float(getattr(record, metric)) if metric in FIELDS else record.metrics.get(metric, math.nan)
