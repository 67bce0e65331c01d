"""Poses, from and to the numbers that states and actions have: rotations, navigation's waypoints, and human hands; angles in rad.

A waypoint is (dx, dy, dtheta), a displacement and a heading change in the ground plane (paper, sections 2.4, 3.2.4, 4.1). The paper
does not say which axes, units or frame of reference it means. Ours: x forward, y to the left, in metres; theta counter-clockwise seen
from above; each waypoint is given in the frame of the one before it, the first in the agent's own. Axes and signs are those of the
field's evaluators (InternRobotics/InternNav internnav/model/utils/vln_utils.py@7a5c624), which add displacements up in the frame of the
chunk's first pose instead.

As each waypoint is relative to the one before it, the window can slide: after an agent has passed ``k`` of them, the others still hold
from where it is, and it may replan after any number.

Human hands are 32 channels: wrist motion and eigengrasps of the left hand, then of the right (paper, section 3.2.2). For each, 3
numbers of translation (m), 3 of rotation as an axis times an angle (rad), 10 eigengrasp coefficients. Translation and rotation are the
transform from the wrist's frame where the chunk begins to the wrist's frame at the step, ``inverse(T_0) T_t``: the wrist as seen from
its own first frame. The paper leaves open how the left hand's joint pose relates to the right one's; one basis serves both hands, so a
data set that mirrors one hand does so before.

Shapes: ``H`` steps of a chunk, ``J`` poses, or waypoints of a trajectory; ``G`` eigengrasps, ``...`` any number of axes. A pose of an
agent is (x, y, theta) in one fixed frame of the plane, one of a wrist a homogeneous matrix ``[..., 4, 4]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...envs.embodiments import Embodiment
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
    poses = _rows(poses, 3, "poses", "(x, y, theta)")
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
    waypoints = _rows(waypoints, 3, "waypoints", "(x, y, theta)")
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


#: Numbers of a hand's joint pose: axis-angle rotations of 15 joints (paper, section 3.2.2).
JOINT_POSE = 45

#: Principal components kept of it (paper, section 3.2.2).
EIGENGRASPS = 10

#: Translation, rotation and eigengrasps of one hand.
HAND_CHANNELS = 6 + EIGENGRASPS

#: Of both hands (paper, section 3.2.2).
CHANNELS = 2 * HAND_CHANNELS

#: How far from orthonormal a rotation matrix may be: data sets store float32.
_ROTATION_TOLERANCE = 1e-3


def wrist_channels(poses: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Translation and rotation of a wrist relative to where it was at first, ``float64[H, 6]``.

    Args:
        poses: The wrist's frame at each step, ``[H, 4, 4]``.
        initial: Its frame where the chunk begins, ``[4, 4]``, in the same world.
    """
    poses, initial = _rigid(poses), _rigid(initial)
    turned_back = initial[:3, :3].T
    translation = (poses[:, :3, 3] - initial[:3, 3]) @ turned_back.T
    return np.concatenate((translation, axis_angle(turned_back @ poses[:, :3, :3])), axis=1)


def wrist_poses(channels: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """The inverse of :func:`wrist_channels`, ``float64[H, 4, 4]``.

    Args:
        channels: ``[H, 6]``.
        initial: The wrist's frame where the chunk begins, ``[4, 4]``.
    """
    channels, initial = _rows(channels, 6, "wrist motion"), _rigid(initial)
    relative = np.tile(np.eye(4), (len(channels), 1, 1))
    relative[:, :3, :3] = rotation_matrix(channels[:, 3:])
    relative[:, :3, 3] = channels[:, :3]
    return initial @ relative


@dataclass(frozen=True, eq=False)
class Eigengrasps:
    """Principal components of the hand's joint pose (paper, section 3.2.2).

    Attributes:
        mean: Mean pose, ``float64[45]``, in rad.
        components: Orthonormal rows ``float64[G, 45]``, those of the largest variance first.
        explained: Each component's share of the variance of the poses they were fitted to, ``float64[G]``.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Eigengrasps) and self.to_data() == other.to_data()

    def __hash__(self) -> int:
        return hash(tuple(self.mean.tolist()))

    @classmethod
    def fit(cls, poses: Iterable[np.ndarray], count: int = EIGENGRASPS) -> Eigengrasps:
        """Fits them to the joint poses of all data sets; each component's largest entry is positive, which settles its sign.

        The arrays are read once, one after the other. Their means and scatter matrices are joined without loss of digits to a mean
        that is far from zero (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").

        Args:
            poses: Arrays ``[J, 45]``, ``J`` of any size.
            count: ``G``.
        """
        total, mean, scatter = 0, np.zeros(JOINT_POSE), np.zeros((JOINT_POSE, JOINT_POSE))
        for array in poses:
            part = _rows(array, JOINT_POSE, "arrays of hand poses")
            if len(part) == 0:
                continue
            centre = part.mean(0)
            off, share = centre - mean, len(part) / (total + len(part))
            scatter += (part - centre).T @ (part - centre) + total * share * np.outer(off, off)
            mean += share * off
            total += len(part)
        if total <= count or not 1 <= count <= JOINT_POSE:
            raise PolicyError(f"{count} eigengrasps cannot be fitted to {total} poses of {JOINT_POSE} numbers; take more poses")
        if not np.isfinite(scatter).all():
            raise PolicyError("a hand pose holds a number that is not finite; leave its trajectory out")
        variances, columns = np.linalg.eigh(scatter)  # the smallest first
        variances, components = variances[::-1].clip(0), columns.T[::-1][:count]
        largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
        whole = variances.sum()
        return cls(mean, components * np.where(largest < 0, -1.0, 1.0), variances[:count] / (whole if whole > 0 else 1.0))

    def encode(self, poses: np.ndarray) -> np.ndarray:
        """The coefficients of joint poses, ``float64[J, G]`` for ``[J, 45]``."""
        return (_rows(poses, JOINT_POSE, "hand poses") - self.mean) @ self.components.T

    def decode(self, coefficients: np.ndarray) -> np.ndarray:
        """The joint poses that coefficients encode, ``float64[J, 45]`` for ``[J, G]``."""
        return self.mean + _rows(coefficients, len(self.components), "eigengrasp coefficients") @ self.components

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data; floats survive it exactly."""
        return {name: getattr(self, name).tolist() for name in ("mean", "components", "explained")}

    @classmethod
    def from_data(cls, data: Any) -> Eigengrasps:
        try:
            if not isinstance(data, Mapping) or set(data) != {"mean", "components", "explained"}:
                raise ValueError
            mean, components, explained = (np.array(data[name], np.float64) for name in ("mean", "components", "explained"))
            if mean.shape != (JOINT_POSE,) or components.shape != (len(explained), JOINT_POSE) or explained.ndim != 1:
                raise ValueError
            if not (np.isfinite(mean).all() and np.allclose(components @ components.T, np.eye(len(explained)))):
                raise ValueError
        except (TypeError, ValueError):
            raise PolicyError(
                f"eigengrasps are expected as a mean of {JOINT_POSE} numbers, orthonormal components and explained shares"
            ) from None
        return cls(mean, components, explained)


def eigengrasps_of(embodiment: Embodiment) -> int:
    """How many eigengrasps of each hand an embodiment's channels have, by the channels' names; 0 where it has no such hands."""
    found = (re.fullmatch(r"(?:left|right)_eigengrasp_(\d+)", channel.name) for channel in embodiment.channels)
    return max((int(number[1]) for number in found if number), default=0)


@dataclass(frozen=True)
class HandMotion:
    """A hand over the steps of a chunk.

    Attributes:
        wrist: Its wrist's frame, ``float64[H, 4, 4]``.
        joints: Its joint pose, ``float64[H, 45]``, in rad.
    """

    wrist: np.ndarray
    joints: np.ndarray


def hands_to_actions(
    left: HandMotion, right: HandMotion, initial_left: np.ndarray, initial_right: np.ndarray, eigengrasps: Eigengrasps
) -> np.ndarray:
    """Both hands as actions, ``float64[H, 32]``.

    Args:
        left: The left hand at each step.
        right: The right hand.
        initial_left: The left wrist's frame where the chunk begins, ``[4, 4]``.
        initial_right: The right wrist's.
        eigengrasps: 10 of them.
    """
    parts = []
    for hand, initial in ((left, initial_left), (right, initial_right)):
        parts += [wrist_channels(hand.wrist, initial), eigengrasps.encode(hand.joints)]
    actions = np.concatenate(parts, axis=1)
    return _rows(actions, CHANNELS, "egocentric actions")


def actions_to_hands(
    actions: np.ndarray, initial_left: np.ndarray, initial_right: np.ndarray, eigengrasps: Eigengrasps
) -> tuple[HandMotion, HandMotion]:
    """The inverse of :func:`hands_to_actions`, up to what the eigengrasps leave out: the left hand and the right one.

    Args:
        actions: ``[H, 32]``.
        initial_left: The left wrist's frame where the chunk begins, ``[4, 4]``.
        initial_right: The right wrist's.
        eigengrasps: Those that the actions were made with.
    """
    left, right = np.split(_rows(actions, CHANNELS, "egocentric actions"), 2, axis=1)
    return (
        HandMotion(wrist_poses(left[:, :6], initial_left), eigengrasps.decode(left[:, 6:])),
        HandMotion(wrist_poses(right[:, :6], initial_right), eigengrasps.decode(right[:, 6:])),
    )


def _rigid(poses: np.ndarray) -> np.ndarray:
    """The poses in float64, checked to be rigid transforms."""
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim not in (2, 3) or poses.shape[-2:] != (4, 4):
        raise PolicyError(f"wrist poses have the shape {poses.shape}, expected homogeneous matrices of 4 by 4")
    rotation = poses[..., :3, :3]
    off = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(initial=0.0)
    if not (off < _ROTATION_TOLERANCE and (np.linalg.det(rotation) > 0).all() and (poses[..., 3, :] == (0, 0, 0, 1)).all()):
        raise PolicyError(
            "a wrist pose is not a rotation and a translation over a last row of 0 0 0 1; check the data set's frames"
        )
    return poses


def _rows(array: np.ndarray, size: int, what: str, of: str = "") -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != size:
        raise PolicyError(f"{what} have the shape {array.shape}, expected rows of {of or size}")
    return array
