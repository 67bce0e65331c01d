"""A grid of sweeps: every policy under every setting, the best chosen on half of the initial states and measured on the others."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..envs.errors import VlarigError
from ..results.grid import Grid, GridCell, best
from ..results.runs import CELLS, DEFAULT_RUNS
from ..results.tables import RunTable, run_table
from .plan import SweepConfig

#: What a grid varies besides the policy's options: fields of the sweep.
FIELDS = ("latency", "meanwhile", "n_action_steps", "protocol")

#: Parts of the initial states on which a setting is chosen, and measured.
CHOOSING, MEASURING = "1/2", "2/2"

Sweep = Callable[[SweepConfig], int]
"""Runs a sweep, and returns its exit status."""


def parse_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """``NAME=VALUE,VALUE`` each, as name to values."""
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        listed = values.split(",")
        if not (name and equals and all(listed)):
            raise VlarigError(f"grid is {word!r}; expected NAME=VALUE,VALUE..., as in n_action_steps=1,4,8")
        if name in axes or len(set(listed)) < len(listed):
            raise VlarigError(f"grid names {name if name in axes else word!r} twice; name each axis and each value once")
        axes[name] = listed
    return axes


def grid_folder(config: SweepConfig) -> Path:
    """The grid's folder: the run's that the user named, or one named after what all its cells share."""
    if config.run is not None:
        return config.run
    shared = [
        config.suites,
        config.tasks,
        config.episodes,
        config.initial_states,
        config.seed,
        config.strict,
        config.policy_options,
    ]
    digest = hashlib.sha256(json.dumps(shared).encode()).hexdigest()
    return DEFAULT_RUNS / f"grid-{'-'.join(config.suites)}-{digest[:8]}"


def make_grid(policies: Sequence[str], axes: dict[str, list[str]]) -> Grid:
    """Every policy under every combination of values."""
    cells = []
    for policy, *values in itertools.product(policies, *axes.values()):
        settings = dict(zip(axes, values, strict=True))
        if settings.get("latency") == "0" and "meanwhile" in settings and settings.pop("meanwhile") != axes["meanwhile"][0]:
            continue  # where no answer is late, nothing is done meanwhile
        cells.append(GridCell(policy, settings, f"{CELLS}/{_folder_name(policy, settings)}"))
    return Grid(axes, cells)


def run_grid(config: SweepConfig, policies: Sequence[str], axes: dict[str, list[str]], sweep: Sweep) -> tuple[Grid, int]:
    """Sweep every cell, choose the best, and measure it; the grid with its exit status.

    A cell with episodes that were given up, or whose sweep fails, leaves the choice open: the same command goes on.

    Args:
        config: What the cells share.
        policies: The policies.
        axes: Name to values.
        sweep: Runs a cell.
    """
    for name, value in {"shard": config.shard, "part": config.part, "fresh": config.fresh}.items():
        if value:
            raise VlarigError(f"{name} is given beside a grid, whose sweeps have their own; leave it out")
    folder = grid_folder(config)
    grid = make_grid(policies, axes)
    configs = [cell_config(config, cell, folder / cell.run, CHOOSING) for cell in grid.cells]
    folder.mkdir(parents=True, exist_ok=True)
    grid.save(folder)
    status = max(sweep(each.model_copy(update={"video": "none", "track": ()})) for each in configs)
    place = best(tables_of(grid, folder))
    if place is None:
        return grid, status or 1
    grid = Grid(grid.axes, grid.cells, place)
    assert grid.chosen_run is not None
    grid.save(folder)
    return grid, max(status, sweep(cell_config(config, grid.cells[place], folder / grid.chosen_run, MEASURING)))


def tables_of(grid: Grid, folder: Path) -> list[RunTable]:
    """The results of the cells so far."""
    return [run_table(folder / cell.run) for cell in grid.cells]


def cell_config(config: SweepConfig, cell: GridCell, run: Path, part: str) -> SweepConfig:
    """The sweep of a cell on a part of the initial states."""
    fields = {name: value for name, value in cell.settings.items() if name in FIELDS}
    options = [f"{name}={value}" for name, value in cell.settings.items() if name not in FIELDS]
    named = [word for word in config.policy_options if word.partition("=")[0] not in cell.settings]
    changes = {"policy": cell.policy, "policy_options": (*named, *options), "run": run, "part": part}
    return SweepConfig.model_validate(config.model_dump() | fields | changes)


def _folder_name(policy: str, settings: dict[str, str]) -> str:
    """A folder's name that is the same whenever the cell is: the words, and a hash where they hold other signs than a name may."""
    words = ",".join([policy, *(f"{name}={value}" for name, value in settings.items())])
    plain = re.sub(r"[^\w.,=+-]+", "-", words).strip("-")[-80:]
    return plain if plain == words else f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"
