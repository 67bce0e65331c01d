"""A house that an agent walks in: what both backends give.

Frame: habitat's. Metres, y up. A yaw is in rad, counter-clockwise seen from above, and at yaw 0 the agent looks along -z. Positions are
``float32[3]``, as habitat keeps them, on the walkable surface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass(frozen=True)
class Agent:
    """The body for which the walkable surface is made, in metres."""

    height: float
    radius: float


#: The agent whose surface is beside a scan (habitat-sim@57ee494 src/esp/nav/PathFinder.h, ``NavMeshSettings::setDefaults``).
DEFAULT_AGENT = Agent(height=1.5, radius=0.1)


@dataclass(frozen=True)
class Lens:
    """The agent's camera.

    Attributes:
        hfov: Horizontal field of view, degrees.
        elevation: Metres above the agent's position.
    """

    hfov: float
    elevation: float


@dataclass(frozen=True, eq=False)
class Way:
    """The shortest way between two points over the walkable surface.

    Attributes:
        length: Metres; infinite where there is none.
        points: Its corners with both ends, ``float32[points, 3]``; empty where there is none.
    """

    length: float
    points: np.ndarray


class Surface(ABC):
    """Where an agent can walk in a scene."""

    @abstractmethod
    def snap(self, point: np.ndarray) -> np.ndarray:
        """The nearest point of the surface, ``float32[3]``; NaN where none is near."""

    @abstractmethod
    def move(self, start: np.ndarray, end: np.ndarray, sliding: bool) -> np.ndarray:
        """Where a step from ``start`` towards ``end`` ends, ``float32[3]``: at a wall it slides along it, or stops."""

    @abstractmethod
    def way(self, start: np.ndarray, end: np.ndarray) -> Way:
        """The shortest way."""

    @abstractmethod
    def floor(self) -> np.ndarray:
        """Its triangles, ``float32[triangles, 3, 3]``, for maps."""


class World(ABC):
    """A loaded scene. Nothing in it changes: the agent's pose is the caller's.

    Attributes:
        surface: Where the agent can walk.
    """

    surface: Surface

    @abstractmethod
    def render(
        self, position: np.ndarray, yaw: float, lens: Lens, height: int, width: int, person: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """What the agent sees, ``uint8[height, width, 3]``, upright; ``person`` is where another walker is, ``float32[3]``."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""
