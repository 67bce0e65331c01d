"""Human hands as actions: wrist motion and eigengrasps, 32 channels for two hands (paper, section 3.2.2).

A step holds the left hand, then the right; for each: 3 numbers of translation (m), 3 of rotation as an axis times an angle (rad), 10
eigengrasp coefficients. Translation and rotation are the transform from the wrist's frame where the chunk begins to the wrist's frame
at the step, ``inverse(T_0) T_t``: the wrist as seen from its own first frame. The paper leaves open how the left hand's joint pose
relates to the right one's; one basis serves both hands, so a data set that mirrors one hand does so before.

Shapes: ``H`` steps, ``J`` poses, ``G`` eigengrasps, ``...`` any number of axes. Poses are homogeneous matrices ``[..., 4, 4]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...envs.embodiments import Embodiment
from ..api import PolicyError
from .poses import axis_angle, rotation_matrix

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
    channels, initial = _columns(channels, 6, "wrist motion"), _rigid(initial)
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
            part = _columns(array, JOINT_POSE, "arrays of hand poses")
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
        return (_columns(poses, JOINT_POSE, "hand poses") - self.mean) @ self.components.T

    def decode(self, coefficients: np.ndarray) -> np.ndarray:
        """The joint poses that coefficients encode, ``float64[J, 45]`` for ``[J, G]``."""
        return self.mean + _columns(coefficients, len(self.components), "eigengrasp coefficients") @ self.components

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
    return _columns(actions, CHANNELS, "egocentric actions")


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
    left, right = np.split(_columns(actions, CHANNELS, "egocentric actions"), 2, axis=1)
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


def _columns(array: np.ndarray, size: int, what: str) -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != size:
        raise PolicyError(f"{what} have the shape {array.shape}, expected rows of {size}")
    return array
