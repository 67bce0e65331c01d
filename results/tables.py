"""Tables of results: the planned episodes of a run's manifest against the results in its ledger, for each task and suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..envs.errors import VlarigError
from .ledger import Count, Ledger
from .manifest import Manifest, SuitePlan
from .records import TaskKey
from .run_files import run_name
from .shards import owed_episodes
from .statistics import wilson_interval


@dataclass(frozen=True)
class Tally:
    """Episodes of a task, a suite or a run, counted.

    Attributes:
        expected: Episodes that the run, or the shard, consists of.
        finished: Episodes with a result; the ``n`` of the success rate.
        successes: Finished episodes that succeeded under the protocol's rule.
        errors: Episodes that were given up for reasons that are not the policy's; no part of the rate.
    """

    expected: int
    finished: int = 0
    successes: int = 0
    errors: int = 0

    @property
    def missing(self) -> int:
        """Episodes without a result yet; no part of the rate."""
        return self.expected - self.finished - self.errors

    @property
    def complete(self) -> bool:
        """Whether every expected episode has a result."""
        return self.finished == self.expected

    @property
    def rate(self) -> float | None:
        """Share of finished episodes that succeeded; ``None`` where none finished."""
        return self.successes / self.finished if self.finished else None

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's Wilson 95 % interval."""
        return wilson_interval(self.successes, self.finished)

    @property
    def percent(self) -> tuple[float, float, float] | None:
        """The rate, and its interval's lower and upper bound, in percent; ``None`` where none finished."""
        return None if self.rate is None else (100 * self.rate, 100 * self.interval[0], 100 * self.interval[1])

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.expected + other.expected,
            self.finished + other.finished,
            self.successes + other.successes,
            self.errors + other.errors,
        )


@dataclass(frozen=True)
class TaskRow:
    """One task's line."""

    task: str
    variant: str
    tally: Tally

    @property
    def label(self) -> str:
        """The task's name, with its variation where it has one."""
        return self.task if self.variant == "base" else f"{self.task} ({self.variant})"


@dataclass(frozen=True)
class SuiteTable:
    """A suite's lines.

    Attributes:
        suite: Name of the suite.
        protocol: The protocol as ``name@version``.
        rule: The success rule in words.
        rows: A line for each task, in the order of the manifest.
    """

    suite: str
    protocol: str
    rule: str
    rows: tuple[TaskRow, ...]

    @property
    def total(self) -> Tally:
        """The suite's episodes, pooled over its tasks."""
        return sum((row.tally for row in self.rows), Tally(0))


@dataclass(frozen=True)
class RunTable:
    """One run's block of the table."""

    run: str
    manifest: Manifest
    suites: tuple[SuiteTable, ...]

    @property
    def total(self) -> Tally:
        """All episodes of the run; a progress count, whose rate mixes suites and is never shown."""
        return sum((suite.total for suite in self.suites), Tally(0))

    @property
    def notes(self) -> list[str]:
        """Lines below the numbers: that they are of a shard, and how the run differs from an official benchmark."""
        if self.shard is None:
            return self.manifest.notes()
        share = f"shard {self.shard}: {self.total.expected} of the run's {self.manifest.identity.episodes} episodes"
        return [f"{share}; 'vlarig runs merge' puts shards together", *self.manifest.notes()]

    @property
    def shard(self) -> str | None:
        """Which part of its run this is, as ``I/N``; ``None`` for a whole one."""
        return self.manifest.record.shard


def run_table(run_dir: Path) -> RunTable:
    """The table of the run in ``run_dir``, finished or not."""
    manifest = Manifest.load(run_dir)
    with Ledger.open_read_only(run_dir) as ledger:
        return counted_table(run_dir, manifest, ledger.counts())


def counted_table(run_dir: Path, manifest: Manifest, counts: Mapping[TaskKey, Count]) -> RunTable:
    """The table of a run whose episodes have been counted."""
    owed = owed_episodes(manifest)
    suites = tuple(_suite_table(plan, owed, counts) for plan in manifest.identity.suites)
    stray = [task for task in counts if task not in owed]
    if stray or any(row.tally.missing < 0 for suite in suites for row in suite.rows):
        found = "results of " + "/".join(stray[0]) if stray else "more results than were planned"
        raise VlarigError(f"{run_dir} mixes two runs: its ledger holds {found}, against its manifest; restore both from a copy")
    return RunTable(run_name(run_dir), manifest, suites)


def _suite_table(plan: SuitePlan, owed: Mapping[TaskKey, int], counts: Mapping[TaskKey, Count]) -> SuiteTable:
    rows = (TaskRow(task.task, task.variant, Tally(owed[task], *counts.get(task, ()))) for task in plan.planned)
    return SuiteTable(plan.name, plan.protocol_name, _rule(plan), tuple(rows))


def _rule(plan: SuitePlan) -> str:
    rule = plan.protocol.get("success_rule", "first")
    words = {"first": "success at any step", "final": "success at the end"}
    return words.get(rule) or f"success held for {plan.protocol.get('hold_steps', 1)} steps"
