"""Walking: an agent's pose, the steps and turns that change it, and how a waypoint becomes steps and turns.

A pose in the plane is (x, y, theta): x is habitat's -z, y its -x, theta the yaw. So at theta 0 the agent looks along x, y is to its
left, and theta turns counter-clockwise seen from above: the frame of navigation's waypoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .rules import Rules
from .world import Surface

#: By how many metres a move may be shortened without being a collision (habitat-sim@57ee494 src_python/habitat_sim/agent/controls/
#: object_controls.py, EPS).
COLLISION_TOLERANCE = 1e-5

#: Most steps and turns of one waypoint.
MOST_PRIMITIVES = 64


@dataclass(frozen=True)
class Primitive:
    """A move: so many metres in a direction relative to the agent's, then a turn, both counter-clockwise in radians.

    Attributes:
        metres: How far.
        direction: Where to.
        turn: By how much the heading changes.
    """

    metres: float = 0.0
    direction: float = 0.0
    turn: float = 0.0


class Walker:
    """An agent on a walkable surface.

    Args:
        rules: How it walks.
        position: Where it begins, habitat's coordinates.
        yaw: Its heading there.
    """

    def __init__(self, surface: Surface, rules: Rules, position: np.ndarray, yaw: float) -> None:
        self.surface = surface
        self.rules = rules
        self.position = np.array(position, np.float32)
        self.yaw = float(yaw)

    @property
    def pose(self) -> np.ndarray:
        """``float64[3]``, in the plane."""
        return np.array([-self.position[2], -self.position[0], self.yaw], np.float64)

    def move(self, primitive: Primitive) -> bool:
        """Carry out a move; whether something was in the way."""
        collided = False
        if primitive.metres:
            heading = self.yaw + primitive.direction
            ahead = np.array([-math.sin(heading), 0.0, -math.cos(heading)]) * primitive.metres
            end = (self.position + ahead).astype(np.float32)
            reached = self.surface.move(self.position, end, self.rules.sliding)
            wanted, got = (float(np.linalg.norm(to - self.position)) for to in (end, reached))
            collided = got + COLLISION_TOLERANCE < wanted
            self.position = reached
        self.yaw = wrap(self.yaw + primitive.turn)
        return collided

    def copy(self) -> Walker:
        return Walker(self.surface, self.rules, self.position, self.yaw)


def wrap(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def heading_of(rotation: list[float]) -> float:
    """The yaw of a quaternion ``[x, y, z, w]``, as episodes have it: that of the direction into which it turns -z."""
    x, y, z, w = rotation
    return math.atan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y))


def compose(pose: np.ndarray, waypoint: np.ndarray) -> np.ndarray:
    """The pose, ``float64[3]``, that a waypoint leads to from another."""
    (dx, dy, turn), (cos, sin) = waypoint, (math.cos(pose[2]), math.sin(pose[2]))
    return np.array([pose[0] + cos * dx - sin * dy, pose[1] + sin * dx + cos * dy, wrap(pose[2] + turn)])


def relative(pose: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The waypoint, ``float64[3]``, that leads from a pose to another; the inverse of :func:`compose`."""
    (dx, dy), (cos, sin) = other[:2] - pose[:2], (math.cos(pose[2]), math.sin(pose[2]))
    return np.array([cos * dx + sin * dy, cos * dy - sin * dx, wrap(other[2] - pose[2])])


def is_still(waypoint: np.ndarray, rules: Rules) -> bool:
    """Whether a waypoint, in metres and radians, does not move."""
    return math.hypot(waypoint[0], waypoint[1]) < rules.still_metres and abs(waypoint[2]) < rules.still_radians


def primitives(walker: Walker, waypoint: np.ndarray, goal: np.ndarray) -> Iterator[Primitive]:
    """The moves by which a waypoint is carried out, each made from where the one before it led.

    Args:
        walker: The agent, which the caller moves.
        waypoint: ``[3]``, metres and radians.
        goal: The pose that it leads to, for pursuit.
    """
    if walker.rules.control == "pursuit":
        return _pursue(walker, goal)
    return iter(_nearest(waypoint, walker.rules) if walker.rules.control == "primitive" else _straight(waypoint, walker.rules))


def _nearest(waypoint: np.ndarray, rules: Rules) -> list[Primitive]:
    """The one step or turn of which the waypoint has the larger share."""
    metres, turn = math.hypot(waypoint[0], waypoint[1]), math.radians(rules.turn)
    if metres / rules.step >= abs(waypoint[2]) / turn:
        return [Primitive(rules.step)]
    return [Primitive(turn=math.copysign(turn, waypoint[2]))]


def _straight(waypoint: np.ndarray, rules: Rules) -> list[Primitive]:
    """A straight way in pieces of a step at most, and the turn in pieces of a turn: as many moves as VLN-CE's agent would make."""
    metres, direction = math.hypot(waypoint[0], waypoint[1]), math.atan2(waypoint[1], waypoint[0])
    steps = math.ceil(metres / rules.step - 1e-6)
    turns = math.ceil(abs(waypoint[2]) / math.radians(rules.turn) - 1e-6)
    moves = [Primitive(metres / max(steps, 1), direction)] * steps + [Primitive(turn=waypoint[2] / max(turns, 1))] * turns
    return moves[:MOST_PRIMITIVES]


def _pursue(walker: Walker, goal: np.ndarray) -> Iterator[Primitive]:
    """Turn towards the goal and step, as long as a step brings the agent nearer, then turn to the goal's heading."""
    turn, steps = math.radians(walker.rules.turn), 0
    while steps < MOST_PRIMITIVES:
        there = relative(walker.pose, goal)
        distance = math.hypot(there[0], there[1])
        if distance <= walker.rules.reach:
            break
        turns = round(math.atan2(there[1], there[0]) / turn)
        ahead = compose(compose(walker.pose, np.array([0.0, 0.0, turns * turn])), np.array([walker.rules.step, 0.0, 0.0]))
        if math.dist(ahead[:2], goal[:2]) >= distance:
            break
        yield from [Primitive(turn=math.copysign(turn, turns))] * abs(turns)
        yield Primitive(walker.rules.step)
        if math.dist(walker.pose[:2], goal[:2]) >= distance - COLLISION_TOLERANCE:  # a wall
            break
        steps += 1
    turns = round(wrap(goal[2] - walker.yaw) / turn)
    yield from [Primitive(turn=math.copysign(turn, turns))] * abs(turns)
