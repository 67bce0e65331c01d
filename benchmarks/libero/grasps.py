"""Where to take hold of an object: grasps of a two-fingered hand that points straight down, from the boxes that make up objects.

Lengths are in metres. The hand is the Franka gripper of robosuite 1.4.0 (robosuite/models/assets/grippers/panda_gripper.xml); its
sizes are those of its collision meshes as compiled. A grasp is given by the place of the grip site, between the finger tips, and by
a yaw. Costs and rooms without a source were found by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: What is wider than this from every side is held by its rim; the open fingers are 7.6 cm apart.
WIDEST = 0.07
#: The finger tips end this far below the grip site, and keep so far from the ground.
TIP = 0.011
GROUND_ROOM = 0.0015
#: Greatest depth of the grip site below the top of an object: the hand's underside stays clear of it.
DEPTH = 0.027
#: Boxes that end this far below the top make up the wall of a round object.
RIM_LAYER = 0.006
#: How far apart the fingers come down: as far as they can, or, on a rim, so that the outer one needs little room.
WIDE = 0.078
ON_RIM = 0.04

#: Half a finger's size along and across the line in which the fingers close, and how far its centre is behind its pad.
FINGER_HALF = (0.013, 0.012)
FINGER_BACK = 0.012
#: Half the hand's size along and across that line, and how far above the grip site it begins.
HAND_HALF = (0.105, 0.035)
HAND_RISE = 0.03
#: Room around hand and fingers; more is worth nothing.
ROOM = 0.012

#: The robot's base on LIBERO's tables (libero/libero/envs/robots/mounted_panda.py at hf-libero 0.1.4, ``base_xpos_offset``), and how
#: far from it the hand comes easily while it points down; at 0.79 m the elbow is straight.
BASE = np.array([-0.66, 0.0])
EASY_REACH = 0.73

#: Yaws that are compared.
CHOICES = 36
#: Cost, in metres of width, of each radian of turn, metre of missing room, square metre of reach beyond the easy one.
TURN_COST = 0.004
ROOM_COST = 4.0
REACH_COST = 20.0
#: Cost of a grasp that resembles one that was tried before: one from about the same side.
TRIED_COST = 0.05
TRIED_ANGLE = np.deg2rad(35)


@dataclass(frozen=True)
class Grasp:
    """A place to close the fingers.

    Attributes:
        place: ``float64[3]``, the grip site in the world frame.
        yaw: Turn of the hand about the world's ``z`` axis, in (-pi/2, pi/2]; at 0 the fingers close along ``y``.
        side: Direction from the object's centre to where its rim is held, in radians; the yaw where it is held from both sides.
        opening: How far apart the fingers come down.
        cost: What it is chosen by; less is better.
    """

    place: np.ndarray
    yaw: float
    side: float
    opening: float
    cost: float


def choose(points: np.ndarray, obstacles: np.ndarray, goal: np.ndarray, tried: Sequence[Grasp] = ()) -> Grasp:
    """The best grasp of an object: across its narrowest width, or by the rim where it is too wide for the hand.

    Args:
        points: ``float64[points, 3]``, the object fills what they span, in the world frame.
        obstacles: ``float64[boxes, 8, 3]``, corners of the boxes of everything else.
        goal: ``float64[3]``, where the object's centre is to be carried.
        tried: Grasps that failed; those that resemble them come last.
    """
    straddles = _straddles(points, obstacles)
    candidates = [grasp for grasp, width in straddles if width <= WIDEST] or _rims(points, obstacles, goal)

    def cost(grasp: Grasp) -> float:
        alike = sum(bool(np.cos(grasp.side - old.side) > np.cos(TRIED_ANGLE)) for old in tried)
        return grasp.cost + TRIED_COST * alike

    return min(candidates, key=cost)


def boxes(points: np.ndarray) -> np.ndarray:
    """``float64[boxes, 8, 3]``: the corners of the boxes that an object is made of.

    Args:
        points: ``float64[points, 3]``, eight corners for each box in turn; points of another number are put into one upright box.
    """
    if len(points) % 8 == 0:
        return points.reshape(-1, 8, 3)
    low, high = points.min(0), points.max(0)
    return np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(1, 8, 3)


def half_turn(angle: float) -> float:
    """The angle moved to (-pi/2, pi/2]: a two-fingered hand looks the same after half a turn."""
    return float(np.pi / 2 - (np.pi / 2 - angle) % np.pi)


def _straddles(points: np.ndarray, obstacles: np.ndarray) -> list[tuple[Grasp, float]]:
    """Grasps with a finger on either side, each with the width between them."""
    low, high = points[:, 2].min(), points[:, 2].max()
    height = max(low + TIP + GROUND_ROOM, min((low + high) / 2, high - TIP), high - DEPTH)
    grasps = []
    for yaw in np.linspace(-np.pi / 2, np.pi / 2, CHOICES + 1)[1:]:
        frame = _frame(yaw)
        seen = points[:, :2] @ frame
        width = float(np.ptp(seen[:, 0]))
        place = np.array([*(frame @ (seen.min(0) + seen.max(0)) / 2), height])
        cost = width + TURN_COST * abs(yaw) + ROOM_COST * _missing_room(place, yaw, WIDE, obstacles)
        grasps.append((Grasp(place, float(yaw), float(yaw), WIDE, float(cost)), width))
    return grasps


def _rims(points: np.ndarray, obstacles: np.ndarray, goal: np.ndarray) -> list[Grasp]:
    """Grasps of the wall of a round object, one finger inside and one outside: each by the centre of a box that ends at the rim."""
    centre = (points.min(0) + points.max(0)) / 2
    solid = boxes(points)
    wall = solid[solid[..., 2].max(1) > points[:, 2].max() - RIM_LAYER]
    breadth = np.linalg.norm(np.ptp(wall[..., :2], axis=1), axis=1)
    grasps = []
    for place in wall[breadth > breadth.max() / 2].mean(1):
        held = place - centre
        side = float(np.arctan2(held[1], held[0]))
        yaw = half_turn(side - np.pi / 2)
        far = _stretch(place[:2]) ** 2 + _stretch(goal[:2] + held[:2]) ** 2
        cost = TURN_COST * abs(yaw) + ROOM_COST * _missing_room(place, yaw, ON_RIM, obstacles) + REACH_COST * far
        grasps.append(Grasp(place, yaw, side, ON_RIM, float(cost)))
    return grasps


def _frame(yaw: float) -> np.ndarray:
    """``float64[2, 2]``: in its columns the direction in which the fingers close, and the one across."""
    return np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])


def _stretch(place: np.ndarray) -> float:
    """How much further from the robot than its easy reach a place is."""
    return max(float(np.linalg.norm(place - BASE)) - EASY_REACH, 0.0)


def _missing_room(place: np.ndarray, yaw: float, opening: float, obstacles: np.ndarray) -> float:
    """How much room the hand lacks at a grasp: nothing where each of its parts keeps ``ROOM`` to all that is as high as it.

    Seen from above, an obstacle counts as its bounding rectangle along the hand's own axes.
    """
    seen = (obstacles[..., :2] - place[:2]) @ _frame(yaw)  # [m, 8, 2]
    low, high, top = seen.min(1), seen.max(1), obstacles[..., 2].max(1)
    finger = opening / 2 + FINGER_BACK
    missing = 0.0
    for along, half, underside in (
        (finger, FINGER_HALF, place[2] - TIP),
        (-finger, FINGER_HALF, place[2] - TIP),
        (0.0, HAND_HALF, place[2] + HAND_RISE),
    ):
        centre = np.array([along, 0.0])
        gaps = np.max(np.maximum(low - centre, centre - high) - half, axis=1)
        missing = max(missing, ROOM - float(gaps[top > underside].min(initial=np.inf)))
    return missing
