"""VLN-CE's measures of an episode, to the letter.

Sources: habitat-lab v0.1.7 habitat/tasks/nav/nav.py (DistanceToGoal, Success, SPL, Collisions) and jacobkrantz/VLN-CE@729d141
habitat_extensions/measures.py (PathLength, OracleSuccess, StepsTaken, NDTW, SDTW).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Optional

import numpy as np

from ..errors import VlarigError

#: A distance to the goal is measured anew where the agent has moved by more than this (nav.py, DistanceToGoal).
MOVED = 1e-4


class Measures:
    """The measures of the episode so far.

    Args:
        distance: Geodesic distance from a position to the goal, metres; infinite where no way leads there.
        start: Where the agent begins, ``float32[3]``.
        success: Metres to the goal below which a stop is a success.
        reference: The way that the instruction describes, ``float64[points, 3]``; ``None`` where there is none.
        fast: Whether dynamic time warping is approximate.
    """

    def __init__(
        self,
        distance: Callable[[np.ndarray], float],
        start: np.ndarray,
        success: float,
        reference: Optional[np.ndarray] = None,
        fast: bool = False,
    ) -> None:
        self._distance = distance
        self._radius = success
        self._reference = reference
        self._fast = fast
        self._measured_at = start
        self._locations = [start.astype(np.float64)]
        self.error = self.shortest = distance(start)
        """Metres to the goal now, and at the start."""
        self.oracle = self.error < success
        """Whether the agent was near the goal at some time."""
        self.success = False
        """Whether it stopped there."""
        self.length = 0.0
        """Metres of its way."""
        self.collisions = 0
        """Moves in which something was in the way."""
        self.steps = 0
        """Actions, that of stopping among them."""
        self._warped = Warping(reference, self._locations[0]) if reference is not None else None

    def move(self, position: np.ndarray, collided: bool) -> None:
        """Count a step or turn that has led to a position, ``float32[3]``."""
        self.steps += 1
        self.collisions += collided
        here = position.astype(np.float64)
        self.length += math.dist(here, self._locations[-1])
        if not np.array_equal(here, self._locations[-1]):
            self._locations.append(here)
            if self._warped is not None:
                self._warped.extend(here)
        if not np.allclose(position, self._measured_at, atol=MOVED):
            self._measured_at = position
            self.error = self._distance(position)
            self.oracle = self.oracle or self.error < self._radius

    def stop(self) -> None:
        """Count the action of stopping."""
        self.steps += 1
        self.success = self.error < self._radius

    def report(self) -> dict[str, float]:
        """The measures by name; those of dynamic time warping where there is a reference."""
        measures = {
            "navigation_error": self.error,
            "oracle_success": float(self.oracle),
            "spl": self.shortest / (max(self.shortest, self.length) or 1.0) if self.success else 0.0,
            "path_length": self.length,
            "collisions": float(self.collisions),
            "steps_taken": float(self.steps),
        }
        if self._warped is not None and self._reference is not None:
            cost = fast_warping(self._locations, self._reference) if self._fast else self._warped.cost
            measures["ndtw"] = math.exp(-cost / (len(self._reference) * self._radius))
            measures["sdtw"] = self.success * measures["ndtw"]
        return measures


class Warping:
    """Dynamic time warping between a reference and a way that grows, exact, by one row of costs for each new point.

    Args:
        reference: ``float64[points, 3]``.
        first: The way's first point, ``float64[3]``.
    """

    def __init__(self, reference: np.ndarray, first: np.ndarray) -> None:
        self._reference = reference
        self._row = np.cumsum(self._apart(first))

    @property
    def cost(self) -> float:
        """The least sum of Euclidean distances of an alignment of all points."""
        return float(self._row[-1])

    def extend(self, point: np.ndarray) -> None:
        """Append a point, ``float64[3]``, to the way."""
        apart, above = self._apart(point), self._row
        best = np.minimum(above, np.concatenate(([np.inf], above[:-1])))
        row = np.empty_like(above)
        left = math.inf
        for place, (cost, other) in enumerate(zip(apart.tolist(), best.tolist())):
            left = cost + min(other, left)
            row[place] = left
        self._row = row

    def _apart(self, point: np.ndarray) -> np.ndarray:
        return np.sqrt(((self._reference - point) ** 2).sum(axis=1))


def fast_warping(way: Sequence[np.ndarray], reference: np.ndarray) -> float:
    """FastDTW's cost, radius 1: an alignment at half the resolution bounds where the finer one is looked for.

    Args:
        way: Points ``float64[3]``.
        reference: ``float64[points, 3]``.
    """
    try:
        from fastdtw import fastdtw
    except ImportError:
        raise VlarigError(f"dtw=fast needs the package fastdtw; run: {sys.executable} -m pip install fastdtw==0.3.4") from None
    return float(fastdtw(way, reference, dist=math.dist)[0])
