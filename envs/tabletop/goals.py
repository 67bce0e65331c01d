"""Success predicates: what it means that an object is in a tray, beside another, on another, pushed into a zone, or done in order.

A goal is plain data from the benchmark (``{"kind": "inside", "object": "red cube", "tray": "white tray"}``); the predicates see the
world through :class:`Thing` alone and depend on neither tasks nor simulator. Every predicate requires that objects rest and that the
gripper has let go: a passing or held object is not a placed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import layout

#: An object slower than this rests. The solver leaves less than 1 mm/s in an object that lies still, a released one that still
#: rocks or slides has several cm/s.
REST_SPEED = 0.02
REST_TURN = 0.4

#: Least and greatest distance between the middles of objects that are beside each other: half a centimetre of air at least, two
#: object widths of it at most.
BESIDE = (0.05, 0.13)
#: How far the line between them may lean, as an offset across the named direction.
BESIDE_ACROSS = 0.045

#: An upper object's middle must be over the lower one's top face, whose half width is 2.25 cm.
STACK_OFFSET = 0.02
#: Slack of heights: contacts give by less than 1 mm, the thinnest wrong thing that could be between is a tray's floor of 4 mm.
HEIGHT_SLACK = 0.003

#: A pushed object's middle ends this near to the zone's along both sides: all of the object's width is on the zone.
PUSHED_WITHIN = layout.ZONE_HALF - layout.SHAPES["cube"].half_size[0]
#: A pushed object's lowest point may rise this far above the table; a push tilts or drags it by less, a grasp lifts it by more.
LIFT_LIMIT = 0.01


@dataclass(frozen=True)
class Thing:
    """A movable object at one moment.

    Attributes:
        shape: ``cube`` or ``cylinder``.
        position: ``float64[3]``, its middle in the world frame, in m.
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
        """How far the object extends below and above its middle as it is turned now, in m."""
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
        things: The movable objects by name.
        places: Middles of trays and zones by name, ``float64[2]`` in the table's plane.
    """

    things: dict[str, Thing]
    places: dict[str, np.ndarray]


class Goal:
    """A goal and its state of the episode: parts that were done in order, and a final failure.

    Attributes:
        spec: The goal as data.
        done: How many parts of an ordered goal were done so far; 0 for other goals.
        failed: Whether the episode is lost for good.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.done = 0
        self.failed = False

    def memory(self) -> np.ndarray:
        """``float64[2]``: what the goal's future verdicts depend on besides the world."""
        return np.array([self.done, self.failed], dtype=np.float64)

    def update(self, world: World) -> bool:
        """Check the world after a step; return whether the goal is reached now."""
        if self.spec["kind"] == "pushed":
            self.failed = self.failed or world.things[self.spec["object"]].lowest > LIFT_LIMIT
        if self.spec["kind"] == "ordered":
            return self._in_order([holds(part, world) for part in self.spec["parts"]])
        return not self.failed and holds(self.spec, world)

    def _in_order(self, now: list[bool]) -> bool:
        if any(now[self.done + 1 :]):
            self.failed = True
        while not self.failed and self.done < len(now) and now[self.done]:
            self.done += 1
        return not self.failed and all(now)


def holds(spec: dict[str, Any], world: World) -> bool:
    """Whether a goal without memory is fulfilled at this moment.

    Raises:
        ValueError: The kind of goal is unknown.
    """
    kind = spec["kind"]
    thing = world.things[spec["object"]]
    if not thing.placed:
        return False
    if kind == "inside":
        return _inside(thing, world.places[spec["tray"]]) and not any(
            _inside(other, world.places[spec["tray"]]) for name, other in world.things.items() if name != spec["object"]
        )
    if kind == "beside":
        return _beside(thing, world.things[spec["reference"]], spec["side"])
    if kind == "stacked":
        return _stacked(thing, world.things[spec["base"]])
    if kind == "pushed":
        away = np.abs(thing.position[:2] - world.places[spec["zone"]])
        return bool(thing.lowest < HEIGHT_SLACK and away.max() < PUSHED_WITHIN)
    raise ValueError(f"goal kind is {kind!r}, expected inside, beside, stacked, pushed or ordered")


def _inside(thing: Thing, tray: np.ndarray) -> bool:
    """Its middle is within the walls and it is on the tray's floor (or leans on a wall), not on another object."""
    away = np.abs(thing.position[:2] - tray)
    return bool(away.max() < layout.TRAY_HALF and thing.lowest < layout.TRAY_FLOOR + HEIGHT_SLACK)


def _beside(thing: Thing, reference: Thing, side: str) -> bool:
    """Both are on the table; left and right are those of the ego image, whose right is the world's ``y``."""
    across, along = (thing.position - reference.position)[:2]
    distance = -along if side == "left" else along
    on_table = max(thing.lowest, reference.lowest) < HEIGHT_SLACK
    return bool(on_table and reference.placed and BESIDE[0] <= distance <= BESIDE[1] and abs(across) < BESIDE_ACROSS)


def _stacked(thing: Thing, base: Thing) -> bool:
    """The upper object's underside lies on the lower one's top, and the lower one is on the table."""
    offset = float(np.linalg.norm((thing.position - base.position)[:2]))
    gap = thing.lowest - (base.lowest + 2 * base.reach)
    return bool(offset < STACK_OFFSET and abs(gap) < HEIGHT_SLACK and base.placed and base.lowest < HEIGHT_SLACK)
