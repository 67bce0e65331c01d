"""The content of one run's page: its tasks, time breakdown, failures, policy and versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..manifest import Manifest
from ..records import TaskKey, split_key
from ..tables import RunTable, Tally
from . import addresses
from .reading import ACTIVITIES, RunReader, TaskTotals

#: Most episodes without a result that a run's page lists.
MOST_LISTED = 100


@dataclass(frozen=True)
class TaskLine:
    """A suite or a task.

    Attributes:
        label: Its name.
        total: Whether it is a suite.
        tally: Its episodes.
        link: The list of its episodes; empty for a suite.
        steps: Mean number of steps of an episode; ``None`` without a finished one.
        metrics: Means of the benchmark's own measures, by name; ``None`` where a finished episode has no finite number.
    """

    label: str
    total: bool
    tally: Tally
    link: str
    steps: float | None
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class TimeLine:
    """The time breakdown of some episodes.

    Attributes:
        label: The task, or all.
        seconds: Seconds in all.
        shares: Activity to its share in percent; ``rest`` is time outside all activities.
    """

    label: str
    seconds: float
    shares: Mapping[str, float]

    @property
    def spans(self) -> list[tuple[str, float, float]]:
        """Each activity with where it begins on a bar of 100, and its width."""
        spans, begin = [], 0.0
        for name, share in self.shares.items():
            spans.append((name, round(begin, 3), round(share, 3)))
            begin += share
        return spans


def task_lines(reader: RunReader, run: str) -> list[TaskLine]:
    lines: list[TaskLine] = []
    number = 0
    for suite in reader.table().suites:
        own = [totals for key, totals in reader.tasks.items() if key[:2] == (suite.suite, suite.protocol)]
        lines.append(TaskLine(f"{suite.suite} {suite.protocol}", True, suite.total, "", _mean_steps(own), {}))
        for row, totals in zip(suite.rows, own, strict=True):
            metrics = {
                name: total / count if count == len(totals.outcomes) and math.isfinite(total) else None
                for name, (total, count) in sorted(totals.metrics.items())
            }
            link = addresses.task_link(run, number)
            lines.append(TaskLine(row.label, False, row.tally, link, _mean_steps([totals]), metrics))
            number += 1
    return lines


def _mean_steps(parts: Sequence[TaskTotals]) -> float | None:
    finished = sum(len(totals.outcomes) for totals in parts)
    return sum(totals.steps for totals in parts) / finished if finished else None


def time_lines(reader: RunReader) -> list[TimeLine]:
    """The time breakdown of the whole run, then of each task; nothing where no episode has finished."""
    lines = [("all tasks", list(reader.tasks.values()))] if len(reader.tasks) > 1 else []
    labels = [row.label for suite in reader.table().suites for row in suite.rows]
    lines += [(label, [totals]) for label, totals in zip(labels, reader.tasks.values(), strict=True)]
    made = (_time_line(label, parts) for label, parts in lines)
    return [line for line in made if line is not None]


def _time_line(label: str, parts: Sequence[TaskTotals]) -> TimeLine | None:
    spent = {name: sum(totals.seconds.get(name, 0.0) for totals in parts) for name in ACTIVITIES}
    total = sum(totals.seconds.get("total", 0.0) for totals in parts)
    whole = max(total, sum(spent.values()))
    if not whole > 0:
        return None
    rest = whole - sum(spent.values())
    return TimeLine(label, whole, {name: 100 * value / whole for name, value in (spent | {"rest": max(rest, 0.0)}).items()})


def state_of(reader: RunReader, table: RunTable) -> str:
    """A run's progress, in a word or two."""
    if table.total.complete:
        return "complete"
    return "being written" if reader.being_written else "incomplete"


def image(reader: RunReader, run: str) -> dict[str, str] | None:
    """How the run's first filmed episode ended, if there is one: ``path`` of the image, ``link`` to the episode, ``label``."""
    key = reader.first_poster()
    if key is None:
        return None
    *task, initial_state, repeat = split_key(key)
    number = list(reader.tasks).index(TaskKey(*task))
    outcome = "success" if reader.tasks[TaskKey(*task)].outcomes[key].success else "failure"
    label = f"{reader.name}: the end of {task[2]}, initial state {initial_state}: {outcome}"
    path = addresses.film(run, number, initial_state, repeat, "jpg")
    return {"path": path, "link": addresses.episode_link(run, key), "label": label}


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """The run's policy, protocols, versions and machine, for readers."""
    identity, record = manifest.identity, manifest.record
    dirty = " with uncommitted changes" if record.git_dirty else ""
    named = {
        "policy": identity.policy_label,
        "revision": identity.policy_revision or "",
        "seed": str(identity.seed),
        "strict": "yes" if identity.strict else "",
        "renderer": identity.renderer,
        "vlarig": identity.vlarig_version + (f" at {record.git_revision[:12]}{dirty}" if record.git_revision else ""),
        "started": record.created,
        "on": record.host,
        "with": " ".join(record.command),
        "part": record.part if record.shard else "",
        "identity": manifest.identity_hash(),
    }
    return [(name, text) for name, text in named.items() if text]
