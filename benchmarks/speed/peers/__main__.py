"""vlarig beside its peers, in one run on one machine: the same episodes of LIBERO, turn by turn, and medians.

Each peer runs in an environment of its own, made with uv from the pinned lists in this folder (once, some 2 GB; needs a network, or
UV_FIND_LINKS). What was measured stays in --out: the same command goes on where it was interrupted, and with nothing left to measure
it only writes the tables again.

    python benchmarks/speed/peers --out peers --turns 3 --page docs/peers.md
    python benchmarks/speed/peers --out smoke --turns 1 --episodes 1 --steps 16
    python benchmarks/speed/peers --out peers --only vlarig/defaults
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import tyro
from cells import SUITES, Cell, all_cells
from drivers import DRIVERS
from environments import requirements
from playing import play
from records import Records, figures, todo
from rich.console import Console
from rich.markdown import Markdown
from table import place, render

from vlarig.envs.errors import VlarigError


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    out: Path = Path("peers")
    """Folder of the results, made where it is missing."""
    turns: int = 3
    """Turns of each cell that is timed."""
    episodes: int = 4
    """Episodes of each cell that is timed."""
    suites: tuple[str, ...] = SUITES
    """Suites whose first task is played."""
    steps: int | None = None
    """Steps of an episode, to try the scripts out; vlarig plays whole episodes all the same. Default: the suite's own."""
    only: tuple[str, ...] = ("",)
    """Only cells whose name has one of these in it."""
    page: Path | None = None
    """Page to write the tables into, between its two markers."""
    dry: bool = False
    """Only name the cells that are left to measure."""


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "vlarig": version("vlarig"),
        "versions": {name: requirements(name) for name in ("upstream", "vla-eval", "lerobot", "rlinf", "roboeval")},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def summary(cells: list[Cell], records: Records) -> dict[str, Any]:
    """Everything that was measured, with the medians."""
    measured = {cell.key: records.of(cell) for cell in cells if records.of(cell)}
    medians = {cell.key: vars(numbers) for cell in cells if (numbers := figures(records.of(cell)))}
    return {"machine": machine(), "medians": medians, "turns": measured}


def measure(cell: Cell, turn: int, out: Path, records: Records) -> None:
    """Play a cell in a folder of its own, which stays only where something went wrong."""
    folder = (out / "work" / f"{cell.key.replace('/', ' ')} {turn}").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    played = play(cell, folder)
    records.add(cell, turn, played.line())
    if not cell.killed and not any(played.measured.statuses):
        shutil.rmtree(folder)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    console = Console(width=150)
    cells = [
        cell
        for cell in all_cells(settings.suites, settings.episodes, settings.steps)
        if any(part in cell.key for part in settings.only)
    ]
    settings.out.mkdir(parents=True, exist_ok=True)
    records = Records(settings.out)
    left = todo(cells, settings.turns, records)
    if settings.dry:
        console.print(
            "\n".join(f"turn {turn}: {cell.key}" for cell, turn in left) or "nothing is left to measure", markup=False
        )
        return
    for name in dict.fromkeys(cell.peer for cell, _ in left):
        console.print(f"looking for {name}", markup=False)
        DRIVERS[name].ready()
    for number, (cell, turn) in enumerate(left, 1):
        console.print(f"{number} of {len(left)}: turn {turn}, {cell.key}", markup=False)
        try:
            measure(cell, turn, settings.out, records)
        except RuntimeError as error:  # the others are measured all the same, and this one when the command runs again
            console.print(f"not measured: {error}", markup=False)
    text = render(cells, records)
    (settings.out / "results.json").write_text(json.dumps(summary(cells, records), indent=1) + "\n", encoding="utf-8")
    (settings.out / "table.md").write_text(text + "\n", encoding="utf-8")
    console.print(Markdown(text))
    if settings.page is not None:
        place(settings.page, text)


if __name__ == "__main__":
    try:
        main()
    except VlarigError as error:
        raise SystemExit(str(error)) from None
