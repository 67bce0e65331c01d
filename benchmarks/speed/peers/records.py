"""What was measured, a JSON line for each cell and turn: written at once, never measured again, summed up in medians."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cells import Cell

FILE = "cells.jsonl"


class Records:
    """The file of finished cells, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lines: dict[tuple[str, int], dict[str, Any]] = {}
        if self._path.exists():
            for text in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    continue  # the line that a kill cut short; its cell is measured again
                self._lines[line["key"], line["turn"]] = line

    def has(self, cell: Cell, turn: int) -> bool:
        return (cell.key, turn) in self._lines

    def add(self, cell: Cell, turn: int, played: dict[str, Any]) -> None:
        """Write it down; a line that a kill cut short before it is ended first."""
        line = {"key": cell.key, "turn": turn} | played
        self._lines[cell.key, turn] = line
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(line) + "\n")

    def of(self, cell: Cell) -> list[dict[str, Any]]:
        """What was measured of a cell, turn by turn."""
        return [line for (key, _), line in sorted(self._lines.items()) if key == cell.key]


def todo(cells: Sequence[Cell], turns: int, records: Records) -> list[tuple[Cell, int]]:
    """What is left to measure: turn by turn, so that a disturbance of the machine affects all in the same way."""
    return [
        (cell, turn) for turn in range(turns) for cell in cells if not (cell.once and turn > 0) and not records.has(cell, turn)
    ]


@dataclass(frozen=True)
class Figures:
    """Medians of a cell's turns.

    Attributes:
        turns: How many.
        rate: Steps a second, from the first process's start to the last one's exit.
        slowest: Of the slowest turn.
        fastest: Of the fastest.
        cpu_ms: CPU milliseconds a step, of all processes.
        memory: Most megabytes at a time, of all processes.
    """

    turns: int
    rate: float
    slowest: float
    fastest: float
    cpu_ms: float
    memory: float


def figures(lines: Iterable[dict[str, Any]]) -> Figures | None:
    """A cell's figures; ``None`` where it was not measured, or gave no result."""
    good = [line for line in lines if line["outcome"]["steps"] and not any(line["measured"]["statuses"])]
    if not good:
        return None
    rates = [line["outcome"]["steps"] / line["measured"]["wall"] for line in good]
    return Figures(
        len(good),
        median(rates),
        min(rates),
        max(rates),
        median(line["measured"]["cpu"] / line["outcome"]["steps"] * 1e3 for line in good),
        median(line["measured"]["memory"] for line in good),
    )
