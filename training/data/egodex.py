"""EgoDex: hands that a headset tracked, with its video (arXiv 2505.11709; data under CC BY-NC-ND).

The layout, from the publisher's README and loader (apple/ml-egodex README.md and simple_dataset.py, read in the copy
Robot774/latent-action-tokenizer ml-egodex/@2bf4822), its list of joints (utils/skeleton_tfs.py, in the copy zhoush210/VITRA@a24759a)
and the paper's section 3.2 and appendix A.3:

    part1/TASK/0.mp4            1920x1080 at 30 Hz; frame i is seen when pose i is
    part1/TASK/0.hdf5
        transforms/JOINT        float[T, 4, 4] in ARKit's origin frame, which stays where it is; 68 joints and the camera
        confidences/JOINT       float[T], 0 where the joint is hidden; in some episodes only
        camera/intrinsic        float[3, 3]
        attributes              llm_description, llm_description2, llm_type, which_llm_description, task, ...

Of a pair of tasks that undo each other (``llm_type`` "reversible"), ``which_llm_description`` says which description is the
episode's; ``description`` is the collector's own, for older annotations.

**From ARKit's frames to MANO's angles.** EgoDex has a frame for each joint, no angles. For a joint with the frame ``W`` and its parent
with ``P`` (the wrist ``Hand`` for each finger's joint nearest to the palm, as MANO has no metacarpals) the joint's rotation is
``inverse(P) W``, about the axes that MANO's hand has, counted from MANO's flat hand:

* Axes. Wrist frames follow the hand, in another way on each side. They are found in each episode from where the knuckles are: along
  the middle finger, and across from the little finger to the index finger, to the nearest quarter turn. An episode whose knuckles
  are more than 30 degrees off every quarter turn is refused.
* Flat hand. A frame of ARKit has an axis along its bone and bends about its z. :func:`flat_hand` has the frames' turns where the bones
  are as on MANO's flat hand, whose fingers are spread.

EgoDex's own files could not be had. Both were checked on eight gestures of a left hand that ARKit tracked (XanderXu/HandVector
Sources/HandVector/BuiltinJson/BuiltinHand.json@efd0d2f): x points to the fingers, y out of the palm; the second and third joints
of straight fingers are within 0.2 rad of 0, those of curled ones at 0.4 to 2 rad about MANO's +z; a grasping thumb's first joint
turns 1.2 rad about x, as in VITRA's example.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.errors import not_importable
from ...policies.qwen_vla.poses import axis_angle
from .egocentric import Hand, HandDataset, HandEpisode, Hands
from .errors import DataError
from .frames import need_frames, read_frames

#: The fingers in MANO's order (joints 1 to 15; the order is that of the map in microsoft/VITRA libs/models/mano_wrapper.py@c68b65e).
FINGERS = ("IndexFinger", "MiddleFinger", "LittleFinger", "RingFinger", "Thumb")

#: Of each, from the palm outwards.
PHALANGES = ("Knuckle", "IntermediateBase", "IntermediateTip")

#: The 15 joints of a pose.
JOINTS = tuple(f"{finger}{phalanx}" for finger in FINGERS for phalanx in PHALANGES)

#: The joint before each of them; the first of a finger has the wrist instead.
_PARENTS = [max(index - 1, 0) for index in range(len(JOINTS))]

#: EgoDex's rate in Hz (arXiv 2505.11709, section 3).
RATE = 30.0

#: Where each finger points on MANO's flat right hand, about its axes: the sum of the three bones with the joints' rotations undone, in
#: VITRA's example (microsoft/VITRA data/examples/annotations/Ego4D_03cc49c3-..._ep_example.npy@c68b65e), to 0.01.
FLAT = {
    "IndexFinger": (-1.0, 0.04, 0.04),
    "MiddleFinger": (-0.99, 0.05, -0.15),
    "LittleFinger": (-0.84, 0.01, -0.54),
    "RingFinger": (-0.96, 0.05, -0.27),
    "Thumb": (-0.75, -0.10, 0.66),
}

#: The axis about which MANO's thumb bends, there: the mean of its last joint's rotation.
THUMB_BENDS = (0.73, -0.23, 0.64)

#: A left hand's pose is that of its mirror image, as VITRA has it: x is flipped.
_FLIP = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class EgoDex:
    """EgoDex's episodes below a folder: the whole release, a part of it, or one task.

    Attributes:
        name: Names the data set.
        min_confidence: A wrist whose confidence is less is not tracked. 0 means hidden (arXiv 2505.11709, section 3.2); between the
            two modes of the values, up to 0.003 and from 0.2 on (angkul07/egodex_retargeting doc.md@3429e13, section 5). Episodes
            without confidences count as tracked.
    """

    folder: Path
    name: str = "egodex"
    min_confidence: float = 0.1

    def names(self) -> list[str]:
        """The episodes, ``part1/TASK/12``, by task and number."""
        found = [path.relative_to(self.folder).with_suffix("") for path in self.folder.rglob("*.hdf5")]
        found.sort(key=lambda path: (path.parent.as_posix(), int(path.name) if path.name.isdecimal() else -1, path.name))
        if not found:
            raise DataError(
                f"{self.folder} has no TASK/NUMBER.hdf5 in it; name the folder of EgoDex's release, or a part of it"
            )
        return [path.as_posix() for path in found]

    def describe(self, name: str) -> HandEpisode:
        """The episode with its instruction, where it has one."""
        path = self._path(name)
        with _opened(path) as file:
            words = instruction_of(file.attrs)
            frames = len(_dataset(file, path, "transforms/rightHand"))
        need_frames(path.with_suffix(".mp4"), frames)
        return HandEpisode(name, path.parent.name, RATE, frames, ((0, frames, words),) if words else ())

    def read(self, name: str, first: int = 0, stop: int | None = None) -> Hands:
        """Both hands in MANO's convention."""
        path = self._path(name)
        with _opened(path) as file:
            return Hands(*(self._hand(file, path, side, slice(first, stop)) for side in ("left", "right")))

    def image(self, name: str, frame: int) -> np.ndarray:
        return read_frames(self._path(name).with_suffix(".mp4"), [frame])[0]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.hdf5"

    def _hand(self, file: Any, path: Path, side: str, rows: slice) -> Hand:
        wrist = _dataset(file, path, f"transforms/{side}Hand")[rows].astype(np.float64)
        joints = np.stack([_dataset(file, path, f"transforms/{side}{joint}")[rows] for joint in JOINTS], axis=1)
        joints = joints.astype(np.float64)
        if wrist.shape[1:] != (4, 4) or joints.shape[2:] != (4, 4) or len(wrist) != len(joints):
            raise DataError(f"the transforms of {path} have the shape {joints.shape[2:]}, expected matrices of 4 by 4")
        tracked = np.isfinite(wrist).all((1, 2)) & np.isfinite(joints).all((1, 2, 3))
        if f"confidences/{side}Hand" in file:
            tracked &= np.asarray(file[f"confidences/{side}Hand"][rows]) >= self.min_confidence
        wrist[~tracked], joints[~tracked] = np.eye(4), np.eye(4)
        if not tracked.any():
            return Hand(wrist, np.zeros((len(wrist), 45)), tracked)
        try:
            axes = hand_axes(wrist[tracked], joints[tracked], side)
        except DataError as error:
            raise DataError(f"{path}, the {side} hand: {error}") from None
        pose = joint_pose(wrist[:, :3, :3], joints[:, :, :3, :3], axes, side)
        turned = wrist.copy()
        turned[:, :3, :3] = wrist[:, :3, :3] @ axes
        return Hand(turned, pose, tracked)


def open_egodex(folder: Path, horizon: int = 16, picture_height: int | None = 480, **options: Any) -> HandDataset:
    """Its episodes as a data set; options as of :class:`EgoDex` and :class:`~.egocentric.HandDataset`."""
    return HandDataset(EgoDex(folder, **options), horizon, picture_height)


def instruction_of(attributes: Any) -> str:
    """The episode's description, by its attributes; empty where there is none."""

    def text(key: str) -> str:
        value = attributes.get(key, "")
        value = value.decode() if isinstance(value, bytes) else str(value)
        return "" if value == "None" else value.strip()

    second = text("llm_type") == "reversible" and text("which_llm_description") != "1"
    return text("llm_description2" if second else "llm_description") or text("description")


def hand_axes(wrist: np.ndarray, joints: np.ndarray, side: str) -> np.ndarray:
    """MANO's axes in the frame of ARKit's wrist, ``float64[3, 3]`` of -1, 0 and 1, columns x, y, z.

    Args:
        wrist: The wrist's frames, ``[T, 4, 4]``.
        joints: Those of :data:`JOINTS`, ``[T, 15, 4, 4]``.
        side: ``left`` or ``right``.
    """
    inverse = np.swapaxes(wrist[:, :3, :3], -1, -2)
    index, middle, little = (
        np.mean(np.einsum("tij,tj->ti", inverse, joints[:, JOINTS.index(f"{finger}Knuckle"), :3, 3] - wrist[:, :3, 3]), axis=0)
        for finger in FINGERS[:3]
    )
    x = _unit(middle if side == "left" else -middle)
    across = index - little
    z = _unit(across - (across @ x) * x)
    exact = np.stack((x, np.cross(z, x), z), axis=1)
    nearest = np.rint(exact)
    # A matrix of 0 and 1 is a rotation to which the exact one is near where every axis is less than 30 degrees off.
    if (
        not (np.abs(nearest).sum(0) == 1).all()
        or np.linalg.det(nearest) < 0.5
        or (np.diag(nearest.T @ exact) < np.sqrt(0.75)).any()
    ):
        raise DataError("its knuckles are not along an axis of its wrist's frame; are the joints ARKit's?")
    return nearest


def flat_hand() -> np.ndarray:
    """How the frames of :data:`JOINTS` are turned from the wrist's on MANO's flat right hand, about its axes, ``float64[15, 3, 3]``."""
    turns = []
    for finger in FINGERS:
        x = _unit(-np.array(FLAT[finger]))
        bends = np.array(THUMB_BENDS if finger == "Thumb" else (0.0, 0.0, 1.0))
        z = _unit(bends - (bends @ x) * x)
        turns += [np.stack((x, np.cross(z, x), z), axis=1)] * len(PHALANGES)
    return np.stack(turns)


def joint_pose(
    wrist: np.ndarray, joints: np.ndarray, axes: np.ndarray, side: str, rest: np.ndarray | None = None
) -> np.ndarray:
    """The joint pose in MANO's convention, ``float64[T, 45]``, from the frames' rotations.

    Args:
        wrist: Of the wrist, ``[T, 3, 3]``.
        joints: Of the 15 joints, ``[T, 15, 3, 3]``, in the same world.
        axes: MANO's axes in the wrist's frame, ``[3, 3]``.
        side: ``left`` or ``right``.
        rest: Turns of the joints' frames on a flat hand, ``[15, 3, 3]``; those of :func:`flat_hand` where it is ``None``.
    """
    flat = flat_hand() if rest is None else np.asarray(rest, np.float64)
    flat_parents = flat[_PARENTS].copy()
    flat_parents[::3] = np.eye(3)
    parents = joints[:, _PARENTS].copy()
    parents[:, ::3] = wrist[:, None]
    basis = axes @ _FLIP if side == "left" else axes  # a left hand's axes are mirrored, so this is no rotation there
    turns = basis.T @ np.swapaxes(parents, -1, -2) @ joints @ basis
    return axis_angle(flat_parents @ turns @ np.swapaxes(flat, -1, -2)).reshape(-1, 45)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(not_importable("EgoDex needs", error, "train")) from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} does not open ({error}); check that it is there and whole") from None


def _dataset(file: Any, path: Path, key: str) -> Any:
    if key not in file:
        raise DataError(f"{path} has no {key}; is it an episode of EgoDex?")
    return file[key]
