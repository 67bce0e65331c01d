"""The record of a grid: which settings were swept, by which runs, and which were chosen.

A grid's folder holds ``grid.json``, ``cells/NAME/``, a run of each setting on the first half of each task's initial states, and
``chosen/``, a run of the best setting on the other half. What is chosen among many by their success did well by luck in part; the other
half, on which nothing was chosen, says how well it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..envs.errors import VlarigError
from ..envs.home import appearing
from .runs import CHOSEN, GRID_RECORD
from .tables import RunTable


class GridCell(msgspec.Struct, frozen=True):
    """One setting.

    Attributes:
        policy: The policy, as it was named.
        settings: Name to value of what the grid varies.
        run: Folder of its run, below the grid's.
    """

    policy: str
    settings: dict[str, str]
    run: str


class Grid(msgspec.Struct, frozen=True):
    """All settings, in the order in which they were given.

    Attributes:
        axes: Name to values of what varies beside the policy.
        cells: The settings.
        chosen: Place of the chosen cell; ``None`` while some are incomplete.
    """

    axes: dict[str, list[str]]
    cells: list[GridCell]
    chosen: int | None = None

    @classmethod
    def load(cls, folder: Path) -> Grid:
        """The record in a grid's folder."""
        try:
            return msgspec.json.decode((folder / GRID_RECORD).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise VlarigError(
                f"{folder / GRID_RECORD} cannot be read as a grid's record ({error}); give the grid's command again"
            ) from None

    def save(self, folder: Path) -> None:
        """Write the record into a grid's folder, whole or not at all."""
        with appearing(folder / GRID_RECORD) as draft:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(cell.policy for cell in self.cells))

    @property
    def chosen_run(self) -> str | None:
        """Folder of the chosen cell's run on the other half, below the grid's; another choice has another one."""
        return None if self.chosen is None else f"{CHOSEN}/{Path(self.cells[self.chosen].run).name},other-half"

    def label(self, cell: GridCell) -> str:
        """What sets the cell apart from the others, in words."""
        policy = [cell.policy] if len(self.policies) > 1 else []
        return ", ".join([*policy, *(f"{name} {value}" for name, value in cell.settings.items())]) or cell.policy


def best(tables: Sequence[RunTable]) -> int | None:
    """Place of the run with the highest success over all its episodes, the first of equal ones; ``None`` where one is incomplete."""
    rates = [table.total.rate for table in tables if table.total.complete]
    known = [rate for rate in rates if rate is not None]
    return known.index(max(known)) if len(known) == len(tables) else None


@dataclass(frozen=True)
class Line:
    """The cells that differ in one numeric axis alone.

    Attributes:
        label: What they share; empty where nothing else varies.
        places: Their places in the grid, by the axis' value.
    """

    label: str
    places: tuple[tuple[float, int], ...]


def lines(grid: Grid, axis: str) -> list[Line]:
    """The grid along an axis whose values are numbers. A cell for which another axis means nothing is on every line of that axis."""
    varied = [name for name, values in grid.axes.items() if name != axis and len(values) > 1]
    found: dict[tuple[str, ...], list[tuple[float, int]]] = {}
    for place, cell in enumerate(grid.cells):
        policy = (cell.policy,) if len(grid.policies) > 1 else ()
        choices = [[cell.settings[name]] if name in cell.settings else grid.axes[name] for name in varied]
        for values in itertools.product(*choices):
            words = (*policy, *(f"{name} {value}" for name, value in zip(varied, values, strict=True)))
            found.setdefault(words, []).append((float(cell.settings[axis]), place))
    return [Line(", ".join(words), tuple(sorted(places))) for words, places in found.items()]


def numeric_axis(grid: Grid) -> str | None:
    """The first axis with two or more values, all of them numbers."""
    return next((name for name, values in grid.axes.items() if len(values) > 1 and all(map(_is_number, values))), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
