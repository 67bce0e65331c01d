"""One recorded episode on the disk, before a dataset is made of it: a film for each view, its numbers, and its labels.

Images are encoded as they come, so that a long episode takes no more memory than a short one. Needs the extra ``data``.

Shapes: ``J`` steps of the episode's trajectory, ``X`` frames that are new, ``P`` numbers of the state, ``A`` action channels.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benchmarks.captions import Description, Segment
from ..envs.errors import VlarigError, not_importable
from ..results.run_files import sync

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

#: H.264 and a key frame every second frame, as LeRobot's own default has it (huggingface/lerobot 0.4.4,
#: src/lerobot/datasets/video_utils.py, encode_video_frames: g=2), so that any frame is reached by decoding two. It is not LeRobot's
#: default codec: SVT-AV1 starts threads of its own for each film, and as many films are written as there are envs. ``crf`` 18 is taken
#: for visually lossless; one thread and no B-frames make the bytes a function of the images, and films that can be joined.
CODEC = "libx264"
CODEC_NAME = "h264"
CODEC_OPTIONS: dict[str, object] = {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0", "threads": "1"}


@dataclass(frozen=True)
class EpisodeSteps:
    """The steps of an episode, beside their images.

    Attributes:
        states: ``float32[J, P]``, each before its action.
        actions: ``float32[J, A]``.
        histograms: View to ``int64[3, 256]``: how often each value occurs in each colour, over all images.
        sizes: View to height and width.
        subtasks: A label for each step, in the order of time; empty where there are none.
        keypoints: ``float32[J, 12]``, what each step is about; ``None`` where the policy does not say.
        description: The episode in words; ``None`` where it is not known.
    """

    states: np.ndarray
    actions: np.ndarray
    histograms: dict[str, np.ndarray]
    sizes: dict[str, tuple[int, int]]
    subtasks: tuple[str, ...] = ()
    keypoints: np.ndarray | None = None
    description: Description | None = None


class EpisodeDraft:
    """Writes an episode while it is played. End with :meth:`finish`, or with :meth:`discard`, which leaves nothing behind.

    Args:
        folder: Where to write; made anew.
        frequency: Steps a second.
    """

    def __init__(self, folder: Path, frequency: float) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._rate = Fraction(frequency).limit_denominator(1000)
        self._films: dict[str, _Film] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._subtasks: list[str] = []
        self._keypoints: list[np.ndarray] = []

    def add(
        self,
        pictures: Mapping[str, np.ndarray],
        states: np.ndarray,
        actions: np.ndarray,
        subtasks: Sequence[str] = (),
        keypoints: np.ndarray | None = None,
    ) -> None:
        """Append steps.

        Args:
            pictures: View tag to ``uint8[X, h, w, 3]``, each before its action.
            states: ``float32[X, P]``, the same.
            actions: ``float32[X, A]``.
            subtasks: ``X`` labels, or none.
            keypoints: ``float32[X, 12]``, or none.
        """
        from av.error import FFmpegError

        if bool(subtasks) != bool(self._subtasks) and self._states:
            raise VlarigError("some steps of the episode name their subtask and others do not; name it at every step")
        if (keypoints is not None) != bool(self._keypoints) and self._states:
            raise VlarigError("some steps of the episode have keypoints and others do not; give them at every step")
        try:
            for view, images in pictures.items():
                if view not in self._films:
                    self._films[view] = _Film(self._folder / f"{view}.mp4", self._rate, images.shape[1:3])
                self._films[view].add(images)
        except (OSError, FFmpegError) as error:
            raise VlarigError(f"{self._folder} cannot be written: {error}; check that there is space left") from error
        self._states.append(np.asarray(states, np.float32))
        self._actions.append(np.asarray(actions, np.float32))
        self._subtasks += subtasks
        if keypoints is not None:
            self._keypoints.append(keypoints)

    def finish(self, place: Path, description: Description | None = None) -> None:
        """Move the whole episode to ``place``, where it survives a power loss.

        Args:
            place: Where to.
            description: The episode in words, where it is known.
        """
        about = {
            "sizes": {view: list(film.size) for view, film in self._films.items()},
            "subtasks": self._subtasks,
            "segments": None if description is None else [asdict(each) for each in description.segments],
        }
        from av.error import FFmpegError

        try:
            for film in self._films.values():
                film.close()
            numbers = {"states": np.concatenate(self._states), "actions": np.concatenate(self._actions)}
            numbers["histograms"] = np.array([film.histogram for film in self._films.values()])
            if self._keypoints:
                numbers["keypoints"] = np.concatenate(self._keypoints)
            np.savez(self._folder / "numbers.npz", allow_pickle=False, **numbers)
            (self._folder / "about.json").write_text(json.dumps(about))
            for file in self._folder.iterdir():
                sync(file)
            sync(self._folder)
            shutil.rmtree(place, ignore_errors=True)
            self._folder.rename(place)
            sync(place.parent)
        except (OSError, FFmpegError) as error:
            raise VlarigError(f"{place} cannot be written: {error}; check that there is space left") from error

    def discard(self) -> None:
        from av.error import FFmpegError

        for film in self._films.values():
            with contextlib.suppress(OSError, FFmpegError):  # a full disk, which add reported
                film.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def read_steps(place: Path) -> EpisodeSteps:
    """The steps that :meth:`EpisodeDraft.finish` wrote."""
    try:
        about: dict[str, Any] = json.loads((place / "about.json").read_text())
        with np.load(place / "numbers.npz", allow_pickle=False) as arrays:
            histograms = dict(zip(about["sizes"], arrays["histograms"], strict=True))
            sizes = {view: (size[0], size[1]) for view, size in about["sizes"].items()}
            segments = about["segments"]
            description = None if segments is None else Description(tuple(Segment(**each) for each in segments))
            return EpisodeSteps(
                arrays["states"],
                arrays["actions"],
                histograms,
                sizes,
                tuple(about["subtasks"]),
                arrays.get("keypoints"),
                description,
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise VlarigError(f"the recorded episode {place} cannot be read: {error}; record into another folder") from error


@dataclass
class _Film:
    """The film of one view."""

    path: Path
    rate: Fraction
    size: tuple[int, int]
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    _container: OutputContainer | None = None
    _stream: VideoStream | None = None

    def add(self, images: np.ndarray) -> None:
        """Append ``uint8[X, h, w, 3]``."""
        import av

        if self._container is None:
            self._container = av.open(str(self.path), "w", format="mp4")
            self._stream = self._container.add_stream(CODEC, rate=self.rate)
            self._stream.height, self._stream.width = self.size
            self._stream.pix_fmt = pixel_format(*self.size)
            self._stream.options = CODEC_OPTIONS
        assert self._stream is not None
        for colour in range(3):
            self.histogram[colour] += np.bincount(images[..., colour].ravel(), minlength=256)
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._container is not None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None


def need_data_extra() -> None:
    """Make sure that datasets can be written and read here."""
    try:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        raise VlarigError(not_importable("datasets need", error, "data")) from error


def pixel_format(height: int, width: int) -> str:
    """``yuv420p``, which all decoders read and which halves the colours' planes; for odd sizes ``yuv444p``, which does not."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"
