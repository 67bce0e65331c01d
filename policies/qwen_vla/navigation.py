"""Navigation's waypoints: (dx, dy, dtheta), a displacement and a heading change in the ground plane (paper, sections 2.4, 3.2.4, 4.1).

The paper does not say which axes, units or frame of reference it means. Ours: x forward, y to the left, in metres; theta
counter-clockwise seen from above, in rad; each waypoint is given in the frame of the one before it, the first in the agent's own.
Axes and signs are those of the field's evaluators (InternRobotics/InternNav internnav/model/utils/vln_utils.py@7a5c624), which add
displacements up in the frame of the chunk's first pose instead.

As each waypoint is relative to the one before it, the window can slide: after an agent has passed ``k`` of them, the others still hold
from where it is, and it may replan after any number.

Shapes: ``H`` waypoints of a chunk, ``J`` waypoints of a trajectory. A pose is (x, y, theta) in one fixed frame of the plane.
"""

from __future__ import annotations

import numpy as np

from ..api import PolicyError

#: Waypoints of a chunk (paper, section 4.1).
WAYPOINTS = 8


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """The same angle in (-pi, pi], ``float64`` of the same shape; an angle that is there already is left as it is."""
    angle = np.asarray(angle, dtype=np.float64)
    wrapped = np.pi - np.mod(np.pi - angle, 2 * np.pi)
    return np.where((angle > -np.pi) & (angle <= np.pi), angle, wrapped)


def relative_waypoints(poses: np.ndarray) -> np.ndarray:
    """The waypoints between successive poses, ``float64[J, 3]``.

    Args:
        poses: ``[J + 1, 3]``, the first being the agent's own.
    """
    poses = _steps(poses, "poses")
    if len(poses) == 0:
        raise PolicyError("there are no poses, expected the agent's own at least")
    moves = np.diff(poses[:, :2], axis=0)
    return np.column_stack((_turn(moves, -poses[:-1, 2]), wrap_angle(np.diff(poses[:, 2]))))


def window(waypoints: np.ndarray, first: int, horizon: int = WAYPOINTS) -> np.ndarray:
    """The chunk to learn at a time step of a trajectory, ``float64[H, 3]``: the next waypoints, and no motion after the last.

    That a chunk which no longer moves means that the agent has arrived is our choice; the paper has no rule for stopping.

    Args:
        waypoints: Those of the whole trajectory, ``[J, 3]``.
        first: Index of the window's first waypoint in 0 to ``J``.
        horizon: ``H``.
    """
    waypoints = _steps(waypoints, "waypoints")
    if not 0 <= first <= len(waypoints):
        raise PolicyError(f"a window starts at waypoint {first} of {len(waypoints)}, expected 0 to {len(waypoints)}")
    chunk = np.zeros((horizon, 3))
    ahead = waypoints[first : first + horizon]
    chunk[: len(ahead)] = ahead
    return chunk


def _turn(moves: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Plane vectors ``[J, 2]`` turned counter-clockwise by angles ``[J]``."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.column_stack((cos * moves[:, 0] - sin * moves[:, 1], sin * moves[:, 0] + cos * moves[:, 1]))


def _steps(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise PolicyError(f"{what} have the shape {array.shape}, expected rows of (x, y, theta)")
    return array
