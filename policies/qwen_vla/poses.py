"""Rotation matrices, from and to the numbers that states and actions have, and navigation's waypoints; angles in rad.

A waypoint is (dx, dy, dtheta), a displacement and a heading change in the ground plane (paper, sections 2.4, 3.2.4, 4.1). The paper
does not say which axes, units or frame of reference it means. Ours: x forward, y to the left, in metres; theta counter-clockwise seen
from above; each waypoint is given in the frame of the one before it, the first in the agent's own. Axes and signs are those of the
field's evaluators (InternRobotics/InternNav internnav/model/utils/vln_utils.py@7a5c624), which add displacements up in the frame of the
chunk's first pose instead.

As each waypoint is relative to the one before it, the window can slide: after an agent has passed ``k`` of them, the others still hold
from where it is, and it may replan after any number.

Shapes: ``H`` waypoints of a chunk, ``J`` waypoints of a trajectory. A pose of an agent is (x, y, theta) in one fixed frame of the
plane.
"""

from __future__ import annotations

import numpy as np

from ..api import PolicyError


def rotation_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, ``float64[..., 3, 3]``, exact near the angle 0 too.

    Args:
        axis_angle: Unit axis times angle (rad), ``[..., 3]``.
    """
    vector = np.asarray(axis_angle, dtype=np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    cross = np.zeros((*vector.shape[:-1], 3, 3))
    cross[..., 2, 1], cross[..., 0, 2], cross[..., 1, 0] = np.moveaxis(vector, -1, 0)
    cross -= np.swapaxes(cross, -1, -2).copy()
    # numpy's sinc(x) is sin(pi x) / (pi x), and 1 at 0: no division by the angle, no cancellation in 1 - cos.
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (cross @ cross)


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    """The inverse of :func:`rotation_matrix`, ``float64[..., 3]``, with an angle in 0 to pi; at pi either axis is a right answer.

    By the quaternion, of which 4 times the products of any two of its numbers are in a rotation matrix: the row of those products
    with the largest square is far from zero, so neither small angles nor those near pi lose digits.

    Args:
        rotation: ``[..., 3, 3]``.
    """
    r = np.asarray(rotation, dtype=np.float64)
    trace = np.trace(r, axis1=-2, axis2=-1)
    products = np.empty((*r.shape[:-2], 4, 4))  # of (w, x, y, z)
    products[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        products[..., i + 1, i + 1] = 1 + 2 * r[..., i, i] - trace
        products[..., 0, i + 1] = products[..., i + 1, 0] = r[..., k, j] - r[..., j, k]
        products[..., j + 1, k + 1] = products[..., k + 1, j + 1] = r[..., j, k] + r[..., k, j]
    largest = np.diagonal(products, axis1=-2, axis2=-1).argmax(-1)
    quaternion = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)  # of half the angle
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * np.where(sine > 0, angle / np.where(sine > 0, sine, 1.0), 2.0)


def euler_matrix(angles: np.ndarray) -> np.ndarray:
    """Roll, pitch and yaw about the fixed axes x, y, z, in this order, ``[..., 3]``, as matrices ``float64[..., 3, 3]``."""
    axes = np.eye(3)
    roll, pitch, yaw = (rotation_matrix(np.asarray(angles, np.float64)[..., i, None] * axes[i]) for i in range(3))
    return yaw @ pitch @ roll


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
