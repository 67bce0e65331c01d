"""Keypoints: the places that a step of a demonstration is about, by the simulator's truth.

A policy never gets them. They are what a model may learn to see in the images, and what an action expert may be trained on before it
reads what such a model sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: What the numbers of :meth:`Keypoints.numbers` are.
NAMES = (
    "object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z", "place_x", "place_y", "place_z",
    "half_turn_cos", "half_turn_sin", "quarter_turn_cos", "quarter_turn_sin", "pushed",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Those of a step, in the frame in which the robot's state has its hand: the world's, or the robot's base.

    Attributes:
        object: ``float[3]``, the centre of what is moved, m.
        goal: ``float[3]``, the centre of what it is moved to.
        place: ``float[3]``, where the object's centre is to be in the end.
        turn: The turn about the vertical, rad, of the line along which fingers close on it. ``None``: it looks the same however it is
            turned.
        quarters: Whether it looks the same after a quarter turn, as a cube does; a line does after half a turn.
        pushed: Whether the object is pushed there rather than carried.
    """

    object: np.ndarray
    goal: np.ndarray
    place: np.ndarray
    turn: float | None = None
    quarters: bool = False
    pushed: bool = False

    def numbers(self) -> np.ndarray:
        """``float32[14]``, see :data:`NAMES`; the turn as cosine and sine of twice and of four times itself, both 0 without one.

        Those of twice a turn are 0 as well where the object looks the same after a quarter turn.
        """
        half = 0j if self.turn is None or self.quarters else np.exp(2j * self.turn)
        quarter = 0j if self.turn is None else np.exp(4j * self.turn)
        turns = (half.real, half.imag, quarter.real, quarter.imag)
        return np.array([*self.object, *self.goal, *self.place, *turns, self.pushed], np.float32)
