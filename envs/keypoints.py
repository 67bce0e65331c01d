"""Keypoints: the places that a step of a demonstration is about, by the simulator's truth.

A policy never gets them. They are what a model may learn to see in the images, and what an action expert may be trained on before it
reads what such a model sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: What the numbers of :meth:`Keypoints.numbers` are.
NAMES = (
    "object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z", "place_x", "place_y", "place_z", "turn_cos", "turn_sin", "pushed",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Those of a step, in the frame in which the robot's state has its hand: the world's, or the robot's base.

    Attributes:
        object: ``float[3]``, the centre of what is moved, m.
        goal: ``float[3]``, the centre of what it is moved to.
        place: ``float[3]``, where the object's centre is to be in the end.
        turn: The turn about the vertical, rad, of the line along which fingers close on it, where it looks the same after a quarter
            turn, as a cube does; half of that turn where it takes half a turn. ``None``: it looks the same however it is turned.
        pushed: Whether the object is pushed there rather than carried.
    """

    object: np.ndarray
    goal: np.ndarray
    place: np.ndarray
    turn: float | None = None
    pushed: bool = False

    def numbers(self) -> np.ndarray:
        """``float32[12]``, see :data:`NAMES`; the turn as cosine and sine of four times itself, both 0 without one."""
        turn = (0.0, 0.0) if self.turn is None else (np.cos(4 * self.turn), np.sin(4 * self.turn))
        return np.array([*self.object, *self.goal, *self.place, *turn, self.pushed], np.float32)
