"""The trainings of a site: runs that are evaluations of one training, as a curve by its steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..run_files import run_name
from ..runs import EVALUATIONS
from ..tables import RunTable, Tally
from . import addresses
from .charts import RateChart
from .reading import RunReader


@dataclass(frozen=True)
class Point:
    """An evaluation.

    Attributes:
        step: The training's step.
        page: Its run's page.
        table: Its results.
        x: Where it is in the chart.
    """

    step: int
    page: str
    table: RunTable
    x: float

    @property
    def tasks(self) -> Mapping[str, Tally]:
        """Label of a task to its episodes."""
        several = len(self.table.suites) > 1
        return {
            f"{suite.suite} {row.label}" if several else row.label: row.tally
            for suite in self.table.suites
            for row in suite.rows
        }


@dataclass(frozen=True)
class Training(RateChart):
    """A training that was evaluated.

    Attributes:
        points: Its evaluations, by step.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def tasks(self) -> list[str]:
        """Labels of the tasks that any evaluation has."""
        return list(dict.fromkeys(label for point in self.points for label in point.tasks))

    def curve(self, task: str | None = None) -> str:
        """The rate of a task, or of all, as the points of an SVG ``polyline``."""
        tallies = [(point.x, point.table.total if task is None else point.tasks.get(task)) for point in self.points]
        return " ".join(f"{x:.1f},{self.level(100 * tally.rate)}" for x, tally in tallies if tally and tally.rate is not None)


def trainings(runs: Sequence[tuple[str, RunReader]]) -> list[Training]:
    """The trainings among some runs, each with its id, by name; an evaluation that is not of a step of one is left out."""
    found: dict[Path, list[tuple[int, str, RunReader]]] = {}
    for run, reader in runs:
        folder = reader.folder.resolve()
        step = re.fullmatch(r"step-([0-9]+)", folder.name)
        if step and folder.parent.name == EVALUATIONS:
            found.setdefault(folder.parent.parent, []).append((int(step[1]), run, reader))
    return [Training(run_name(folder), _points(sorted(found[folder], key=lambda each: each[:2]))) for folder in sorted(found)]


def _points(evaluations: Sequence[tuple[int, str, RunReader]]) -> tuple[Point, ...]:
    last = max(step for step, _, _ in evaluations)
    return tuple(
        Point(step, addresses.run_page(run), reader.table(), RateChart.across(step / last if last else 0.5))
        for step, run, reader in evaluations
    )
