"""Curves of success rates on a site's first page: a training's evaluations by its steps, a grid's settings along a number.

Such runs are in one folder, whose name theirs is. The charts are rendered by charts.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..grid import Grid, lines, numeric_axis
from ..run_files import run_name
from ..runs import CELLS, CHOSEN, EVALUATIONS, GRID_RECORD
from ..tables import RunTable, Tally
from . import addresses
from .reading import RunReader


class RateChart:
    """Base of what is shown as a chart of rates, in the units of its SVG."""

    # The chart's size, and the room at its left and below it for numbers.
    width: ClassVar[int] = 480
    height: ClassVar[int] = 200
    left: ClassVar[int] = 52
    below: ClassVar[int] = 24

    def level(self, percent: float) -> float:
        """Where a rate is, from the top."""
        return round(8 + (1 - percent / 100) * (self.height - self.below - 8), 1)

    @classmethod
    def across(cls, share: float) -> float:
        """Where a share of the axis, 0 to 1, is, from the left."""
        return cls.left + 8 + share * (cls.width - cls.left - 24)


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


@dataclass(frozen=True)
class Setting:
    """A setting that was swept.

    Attributes:
        page: Its run's page.
        table: Its results.
        chosen: Whether it is the chosen one.
    """

    label: str
    page: str
    table: RunTable
    chosen: bool


@dataclass(frozen=True)
class Curve:
    """Settings that differ in one number alone, those that are complete: where each is in the chart, and its value."""

    label: str
    points: tuple[tuple[float, str, Setting], ...]


@dataclass(frozen=True)
class GridPage(RateChart):
    """A grid.

    Attributes:
        settings: All settings, the best first.
        chosen: The chosen one on the other half of the initial states; ``None`` where none is.
        axis: The setting that is a number; empty where none is.
        curves: The settings along it.
    """

    name: str
    settings: tuple[Setting, ...]
    chosen: Setting | None
    axis: str
    curves: tuple[Curve, ...]

    # Room below for the axis' name.
    height: ClassVar[int] = 220
    below: ClassVar[int] = 40

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where the axis' values are in the chart."""
        return list(dict.fromkeys((x, value) for curve in self.curves for x, value, _ in curve.points))


def grids(runs: Sequence[tuple[str, RunReader]]) -> list[GridPage]:
    """The grids among some runs, each with its id, by name."""
    folders: dict[Path, dict[str, tuple[str, RunReader]]] = {}
    for run, reader in runs:
        folder = reader.folder.resolve()
        grid = folder.parent.parent
        if folder.parent.name in (CELLS, CHOSEN) and (grid / GRID_RECORD).is_file():
            folders.setdefault(grid, {})[f"{folder.parent.name}/{folder.name}"] = run, reader
    return [_grid_page(folder, Grid.load(folder), folders[folder]) for folder in sorted(folders)]


def _grid_page(folder: Path, grid: Grid, found: dict[str, tuple[str, RunReader]]) -> GridPage:
    settings: dict[int, Setting] = {}
    for place, cell in enumerate(grid.cells):
        if cell.run in found:
            run, reader = found[cell.run]
            settings[place] = Setting(grid.label(cell), addresses.run_page(run), reader.table(), place == grid.chosen)
    chosen = None
    if grid.chosen is not None and grid.chosen_run in found:
        run, reader = found[grid.chosen_run]
        chosen = Setting(grid.label(grid.cells[grid.chosen]), addresses.run_page(run), reader.table(), True)
    axis = numeric_axis(grid)
    order = sorted(
        settings.values(), key=lambda setting: (not setting.table.total.complete, -(setting.table.total.rate or 0.0))
    )
    curves = () if axis is None else _curves(grid, axis, settings)
    return GridPage(run_name(folder), tuple(order), chosen, axis or "", curves)


def _curves(grid: Grid, axis: str, settings: dict[int, Setting]) -> tuple[Curve, ...]:
    values = [float(value) for value in grid.axes[axis]]
    least, most = min(values), max(values)

    def place(value: float) -> float:
        return round(GridPage.across((value - least) / (most - least)), 1)

    shown = {at for at, setting in settings.items() if setting.table.total.complete}
    return tuple(
        Curve(
            line.label, tuple((place(x), grid.cells[at].settings[axis], settings[at]) for x, at in line.places if at in shown)
        )
        for line in lines(grid, axis)
    )
