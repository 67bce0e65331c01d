"""Geometry that the scripted experts of a hand above a table share. Lengths are in metres, quaternions ``wxyz``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Funnel:
    """How a hand comes down: from above, or it rises and tries again.

    Attributes:
        floor: How far the hand may be beside its target for nothing.
        slope: How much higher it has to be for each metre further.
        top: How much higher at most.
    """

    floor: float
    slope: float
    top: float

    def over(self, target: np.ndarray, grip: np.ndarray) -> np.ndarray:
        """``float64[3]``: the target, raised where the grip site is still beside it."""
        beside = float(np.linalg.norm(target[:2] - grip[:2]))
        return raised(target, target[2] + min(self.slope * max(beside - self.floor, 0.0), self.top))


def raised(place: np.ndarray, height: float) -> np.ndarray:
    """``float64[3]``: a place at another height."""
    return np.array([place[0], place[1], height])


def half_turn(angle: float) -> float:
    """The angle moved to within a quarter turn of zero; a two-fingered hand looks the same after half a turn."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def quaternion(turn: np.ndarray) -> np.ndarray:
    """``float64[4]``: the quaternion of a rotation vector in rad."""
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle > 1e-9 else turn
    return np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])


def turned(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``float64[3]``: a vector, turned by a quaternion."""
    twice = 2.0 * np.cross(rotation[1:], vector)
    return vector + rotation[0] * twice + np.cross(rotation[1:], twice)


def turn_between(now: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """``float64[3]``: the rotation vector in rad, about world axes, from one quaternion ``wxyz`` to another."""
    w = goal[0] * now[0] + goal[1:] @ now[1:]
    v = -goal[0] * now[1:] + now[0] * goal[1:] - np.cross(goal[1:], now[1:])
    length = float(np.linalg.norm(v))
    if length < 1e-9:
        return np.zeros(3)
    angle = 2.0 * np.arctan2(length, w)
    return v / length * (angle - 2 * np.pi if angle > np.pi else angle)
