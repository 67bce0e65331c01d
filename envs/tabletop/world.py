"""The world as goals see it: movable objects at one time, and the centres of trays and zones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import layout

#: An object slower than this rests. The solver leaves less than 1 mm/s in an object that lies still, a released one that still
#: rocks or slides has several cm/s.
REST_SPEED = 0.02
REST_TURN = 0.4

#: An upper object's centre must be over the lower one's top face, whose half width is 2.25 cm.
STACK_OFFSET = 0.02
#: Slack of heights: contacts give by less than 1 mm, the thinnest wrong object that could be between is a tray's floor of 4 mm.
HEIGHT_SLACK = 0.003


@dataclass(frozen=True)
class ObjectState:
    """A movable object at one time.

    Attributes:
        shape: ``cube`` or ``cylinder``.
        position: ``float64[3]``, its centre in the world frame, in m.
        rotation: ``float64[3, 3]``, its axes in the world frame as columns.
        speed: Linear speed in m/s.
        turn: Angular speed in rad/s.
        held: Whether it touches any part of the gripper.
    """

    shape: str
    position: np.ndarray
    rotation: np.ndarray
    speed: float
    turn: float
    held: bool

    @property
    def reach(self) -> float:
        """How far the object extends below and above its centre as it is turned now, in m."""
        half = np.array(layout.SHAPES[self.shape].half_size)
        along = np.abs(self.rotation[2])
        if self.shape == "cylinder":
            return float(half[2] * along[2] + half[0] * np.hypot(along[0], along[1]))
        return float(half @ along)

    @property
    def lowest(self) -> float:
        """Height of its lowest point above the table's top, in m."""
        return float(self.position[2] - layout.TABLE_TOP - self.reach)

    @property
    def placed(self) -> bool:
        """Whether it rests and the gripper has let go."""
        return self.speed < REST_SPEED and self.turn < REST_TURN and not self.held


@dataclass(frozen=True)
class World:
    """What a goal is judged on.

    Attributes:
        objects: The movable objects by name.
        places: Centres of trays and zones by name, ``float64[2]`` in the table's plane.
    """

    objects: dict[str, ObjectState]
    places: dict[str, np.ndarray]
