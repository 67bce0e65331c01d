"""The grids of a site: runs that are the settings of one grid, in one table, and as curves where a setting is a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..grid import Grid, lines, numeric_axis
from ..run_files import run_name
from ..runs import CELLS, CHOSEN, GRID_RECORD
from ..tables import RunTable
from . import addresses
from .charts import RateChart
from .reading import RunReader


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
