"""Where the objects of SimplerEnv's tasks belong, and at what place the expert takes hold of them.

In the world frame, +x points from the table to the robot, which is down in the image, and +y to the image's right. Lengths are in
metres; those without a source were found by trying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...envs.simpler.goals import TABLE_TOP
from .motion import turned

#: How far above its final height an object is let go.
DROP = 0.003
#: Room below what is carried: a spoon hangs askew.
CARRY_ROOM = 0.05

#: An eggplant is let go so far above the basket's floor, and carried so high that it and the fingers clear the sink's walls, which end
#: at 0.997 (the ``sink`` is at 0.88 and is 0.117 high: models/sink/collision.obj of the assets).
BASKET_DROP = 0.06
BASKET_TRAVEL = 1.06
#: Within this of the basket's centre it counts. Upstream allows 0.079: half the diagonal of the target's box, and 0.003.
BASKET_SLIP = 0.06

#: An object that is put beside the target lies with its long side across the way there. Half its width and half the target's leave a
#: gap of 3 cm then, in which a finger opens; suites allow 0.13 and more (benchmarks/simpler/ood.py).
BESIDE = 0.1
#: From the towel's centre into its right half, which is 0.05 wide.
RIGHT_HALF = 0.025
#: How far an object is moved away: twice what counts as moved.
AWAY = 0.06
#: Places further than this from the robot's base are out of the hand's reach at the height at which objects are carried.
REACH = 0.45

#: A spoon is held by its handle, so far from the centre: fingers slip from the neck, which is narrower and begins there.
HANDLE = 0.02

#: An object that ends further than this from its place, seen from above, is fetched again.
SLIP = 0.025

RIGHT, FRONT = np.array([0.0, 1.0]), np.array([1.0, 0.0])
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class SceneState:
    """What the expert sees in one step, in the world frame.

    Attributes:
        hand: ``float64[7]``, position between the fingers and quaternion ``wxyz``.
        commanded: ``float64[7]``, where the controller steers the hand to.
        base: ``float64[7]``, the robot's base.
        source: ``float64[7]``, the object to move.
        target: ``float64[7]``, the other object.
        settled: ``float64[3]``, where the source came to rest at the start.
        source_extent: ``float64[3]``, the sides of the source's box along its own axes.
        target_extent: ``float64[3]``, the target's.
    """

    hand: np.ndarray
    commanded: np.ndarray
    base: np.ndarray
    source: np.ndarray
    target: np.ndarray
    settled: np.ndarray
    source_extent: np.ndarray
    target_extent: np.ndarray

    @property
    def yaw(self) -> float:
        """The hand's yaw, where it points down."""
        line = turned(self.hand[3:], np.array([0.0, 1.0, 0.0]))
        return yaw_along(line)


@dataclass(frozen=True)
class Aim:
    """Where the source belongs.

    Attributes:
        place: ``float64[3]`` for its centre when it is let go.
        travel: Height at which its centre is brought there.
        yaw: The hand's yaw then; ``None``: as it is.
        slip: An object that ends further than this from ``place``, seen from above, is fetched again.
    """

    place: np.ndarray
    travel: float
    yaw: float | None = None
    slip: float = SLIP


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        aim: Where the source belongs, as a function of the observation in which it is held.
        grip: How far from its centre the source is held, along its own x axis.
    """

    aim: Callable[[SceneState], Aim]
    grip: float = 0.0


def closing(yaw: float) -> np.ndarray:
    """``float64[2]``: the line along which the fingers close at a yaw."""
    return np.array([-np.sin(yaw), np.cos(yaw)])


def yaw_along(line: np.ndarray) -> float:
    """The yaw at which the fingers close along a line, of which x and y count."""
    return float(np.arctan2(-line[0], line[1]))


def _upon(scene: SceneState, way: tuple[float, float] = (0.0, 0.0)) -> Aim:
    """On the target, off its centre by an offset along x and y."""
    underside = scene.target[2] + scene.target_extent[2] / 2
    centre = scene.settled[2] - TABLE_TOP  # above the underside of the object that lies
    return Aim(np.array([*(scene.target[:2] + way), underside + centre + DROP]), underside + centre + CARRY_ROOM)


def _in_basket(scene: SceneState) -> Aim:
    """In the basket, whose floor the target is."""
    return Aim(scene.target[:3] + BASKET_DROP * UP, BASKET_TRAVEL, slip=BASKET_SLIP)


def _beside(scene: SceneState, direction: np.ndarray) -> Aim:
    """On the table, in a direction from the target. An object is held by its narrow sides, so that its long one lies across."""
    place = np.array([*(scene.target[:2] + direction * BESIDE), scene.settled[2] + DROP])
    return Aim(place, _upon(scene).travel, yaw_along(direction))


def _near(scene: SceneState) -> Aim:
    """Beside the target, on one of the two sides for which the hand need not turn: the nearer one within reach."""
    sides = [_beside(scene, direction) for direction in (closing(scene.yaw), -closing(scene.yaw))]
    return min(sides, key=lambda aim: (_out_of_reach(scene, aim), np.linalg.norm(aim.place - scene.source[:3])))


def _away(scene: SceneState) -> Aim:
    """A way from the start, in the one of eight directions that leads furthest from the target and stays within reach."""
    x, y, height = scene.settled
    ways = [AWAY * closing(angle) for angle in np.arange(8) * np.pi / 4]
    aims = [Aim(np.array([x + way[0], y + way[1], height + DROP]), _upon(scene).travel) for way in ways]
    return min(aims, key=lambda aim: (_out_of_reach(scene, aim), -np.linalg.norm((aim.place - scene.target[:3])[:2])))


def _out_of_reach(scene: SceneState, aim: Aim) -> bool:
    return bool(np.linalg.norm((aim.place - scene.base[:3])[:2]) > REACH)


#: What the expert can do, by the names of the suites' tasks.
TASKS = {
    "put_spoon_on_towel": Task(_upon, HANDLE),
    "put_carrot_on_plate": Task(_upon),
    "stack_green_on_yellow": Task(_upon),
    "put_eggplant_in_basket": Task(_in_basket),
    "MoveAway": Task(_away, HANDLE),
    "MoveRight": Task(lambda scene: _beside(scene, RIGHT), HANDLE),
    "PlaceNear": Task(_near),
    "PlaceRight": Task(lambda scene: _upon(scene, (0.0, RIGHT_HALF)), HANDLE),
    "PutFront": Task(lambda scene: _beside(scene, FRONT)),
    "StackYellow": Task(_upon),
}
