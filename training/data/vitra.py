"""VITRA's annotations of Ego4D, EPIC-KITCHENS, Ego-Exo4D and Something-Something V2: MANO hands in a world frame, with words.

The layout (microsoft/VITRA data/data.md and vitra/datasets/human_dataset.py@c68b65e):

    DATASET/episodic_annotations/DATASET_VIDEO_ep_000001.npy   one dictionary by np.save
        video_name, video_decode_frame int[T]                  frames of the original video
        extrinsics float[T, 4, 4], intrinsics float[3, 3]      world to camera
        anno_type                                              the hand that the episode is about
        text {left, right: [(words, (first, stop))]}           frames of the episode
        left, right
            transl_worldspace float[T, 3]                      where the wrist is
            global_orient_worldspace float[T, 3, 3]            turns MANO's canonical hand to the world
            hand_pose float[T, 15, 3, 3]                       local joint rotations of the MANO right hand model
            kept_frames int[T]                                 1 where the hand was reconstructed

A left hand's rotations are those of the right hand's model, whose points are then mirrored at x = 0 (visualization/visualize_core.py,
``process_single_hand_labels``): joint poses of both hands are in one convention already, and ``global_orient`` turns the mirrored
hand. Videos are not part of the release; they are looked for by name in one folder, whole or in parts of 2000 frames
(``VIDEO_part1.mp4``), as the publisher's loader has them. Files are read without carrying out their pickle (:mod:`~.object_arrays`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...policies.qwen_vla.poses import axis_angle
from .egocentric import Hand, HandDataset, HandEpisode, Hands
from .errors import DataError, MissingFrames
from .frames import frame_rate, need_frames, read_frames
from .object_arrays import read_object

#: Endings of the videos of the four sources.
_ENDINGS = (".mp4", ".MP4", ".webm")

#: Frames of a part of a cut video (vitra/datasets/human_dataset.py@c68b65e, ``clip_len``).
PART = 2000


@dataclass(frozen=True)
class Vitra:
    """The episodes of one of VITRA's data sets.

    Attributes:
        folder: The data set's folder of the release, with ``episodic_annotations`` in it.
        videos: Where its videos are.
        name: Names the data set.
        rate: Frames a second of all videos; ``None``: what each video says.
    """

    folder: Path
    videos: Path
    name: str = "vitra"
    rate: float | None = None

    def names(self) -> list[str]:
        found = sorted(path.stem for path in (self.folder / "episodic_annotations").glob("*.npy"))
        if not found:
            raise DataError(
                f"{self.folder} has no episodic_annotations/NAME.npy in it; name a data set's folder of VITRA's release"
            )
        return found

    def describe(self, name: str) -> HandEpisode:
        """The episode, with the words of each of its frames."""
        data = self._load(name)
        frames = _field(data, "video_decode_frame", name)
        step = float(np.median(np.diff(frames))) if len(frames) > 1 else 1.0
        if not step > 0:
            raise DataError(f"{name}: video_decode_frame does not increase")
        for last in {int(frame) // PART: int(frame) for frame in frames}.values():
            path, index = self._video(data, last, name)
            need_frames(path, index + 1)
        rate = self.rate or frame_rate(self._video(data, int(frames[0]), name)[0])
        return HandEpisode(name, self.name, rate / step, len(frames), _spans(data, len(frames), name))

    def read(self, name: str, first: int = 0, stop: int | None = None) -> Hands:
        data = self._load(name)
        return Hands(
            *(_hand(_field(data, side, name), f"{name}, the {side} hand", slice(first, stop)) for side in ("left", "right"))
        )

    def image(self, name: str, frame: int) -> np.ndarray:
        """A frame of the episode, out of the original video."""
        data = self._load(name)
        path, index = self._video(data, int(_field(data, "video_decode_frame", name)[frame]), name)
        return read_frames(path, [index])[0]

    def _load(self, name: str) -> dict[str, Any]:
        path = self.folder / "episodic_annotations" / f"{name}.npy"
        data = read_object(path)
        if not isinstance(data, dict):
            raise DataError(f"{path} holds a {type(data).__name__}, expected a dictionary; is it an episode of VITRA?")
        return data

    def _video(self, data: dict[str, Any], frame: int, name: str) -> tuple[Path, int]:
        """The file that has a frame of the original video, and the frame's index in it."""
        video = str(_field(data, "video_name", name))
        for stem, index in ((video, frame), (f"{video}_part{frame // PART + 1}", frame % PART)):
            for ending in _ENDINGS:
                path = self.videos / f"{stem}{ending}"
                if path.is_file():
                    return path, index
        raise MissingFrames(
            f"{name}: the video {video} is not in {self.videos}; get it from its own publisher, whole or in parts"
        )


def open_vitra(folder: Path, videos: Path, horizon: int = 16, picture_height: int | None = 480, **options: Any) -> HandDataset:
    """Its episodes as a data set; options as of :class:`Vitra` and :class:`~.egocentric.HandDataset`."""
    return HandDataset(Vitra(folder, videos, **options), horizon, picture_height)


def _hand(data: Any, where: str, rows: slice) -> Hand:
    orient, place, pose, kept = (
        np.asarray(_field(data, key, where))[rows]
        for key in ("global_orient_worldspace", "transl_worldspace", "hand_pose", "kept_frames")
    )
    count = len(kept)
    if orient.shape != (count, 3, 3) or place.shape != (count, 3) or pose.shape != (count, 15, 3, 3):
        raise DataError(
            f"{where} has shapes {orient.shape}, {place.shape}, {pose.shape}; expected {count} frames of 3x3, 3 and 15x3x3"
        )
    tracked = kept.astype(bool) & np.isfinite(orient).all((1, 2)) & np.isfinite(place).all(1) & np.isfinite(pose).all((1, 2, 3))
    wrist = np.tile(np.eye(4), (count, 1, 1))
    wrist[tracked, :3, :3], wrist[tracked, :3, 3] = orient[tracked], place[tracked]
    joints = np.zeros((count, 45))
    joints[tracked] = axis_angle(pose[tracked]).reshape(-1, 45)
    return Hand(wrist, joints, tracked)


def _spans(data: dict[str, Any], frames: int, name: str) -> tuple[tuple[int, int, str], ...]:
    """The words at each frame: those of the hand that the episode is about, and of the other hand where it has any.

    Both are named where both have words ("Left hand: ... Right hand: ..."); of several that hold, the first counts.
    """
    main = str(_field(data, "anno_type", name))
    if main not in ("left", "right"):
        raise DataError(f"{name}: anno_type is {main!r}, expected left or right")
    try:
        texts = {
            side: [(str(words).strip(), int(first), int(stop)) for words, (first, stop) in data["text"].get(side, [])]
            for side in ("left", "right")
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{name}: text is not (words, (first, stop)) for left and right") from None
    spans: list[tuple[int, int, str]] = []
    for frame in range(frames):
        said = {side: next((w for w, first, stop in texts[side] if first <= frame < stop and w), "") for side in texts}
        if not said[main]:
            continue
        words = f"Left hand: {said['left']} Right hand: {said['right']}" if all(said.values()) else said[main]
        if spans and spans[-1][1] == frame and spans[-1][2] == words:
            spans[-1] = (spans[-1][0], frame + 1, words)
        else:
            spans.append((frame, frame + 1, words))
    return tuple(spans)


def _field(data: Any, key: str, where: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise DataError(f"{where} has no {key}; is it an episode of VITRA?")
    return data[key]
