"""Rotation matrices, from and to the numbers that states and actions have; angles in rad."""

from __future__ import annotations

import numpy as np


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
