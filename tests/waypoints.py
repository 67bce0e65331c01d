"""Where waypoints lead."""

from __future__ import annotations

import numpy as np

from vlarig.policies.qwen_vla.poses import wrap_angle


def absolute_poses(start: np.ndarray, waypoints: np.ndarray) -> np.ndarray:
    """The poses that waypoints ``[J, 3]`` lead through from an agent's own, ``float64[J + 1, 3]``."""
    headings = start[2] + np.concatenate(([0.0], np.cumsum(waypoints[:, 2])))
    cos, sin = np.cos(headings[:-1]), np.sin(headings[:-1])
    x, y = waypoints[:, 0], waypoints[:, 1]
    moves = np.column_stack((cos * x - sin * y, sin * x + cos * y))
    positions = start[:2] + np.concatenate((np.zeros((1, 2)), np.cumsum(moves, axis=0)))
    return np.column_stack((positions, wrap_angle(headings)))
