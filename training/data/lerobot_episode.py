"""What is in the files of a LeRobotDataset: of one recorded episode, and of a dataset that is made of many.

An episode is a film for each view, its numbers, and its labels. Images are encoded as they come, so that a long episode takes no more
memory than a short one. A dataset joins films, and has columns, tables of names, and the statistics of each feature: minimum, maximum,
mean, standard deviation, count and quantiles. Their names and shapes are LeRobot's (huggingface/lerobot 0.4.4,
src/lerobot/datasets/compute_stats.py): a feature of ``n`` numbers has lists of ``n``, an image's are ``[3, 1, 1]`` of values from 0 to
1, and ``count`` is a list of one. Those of images are exact here, from histograms over all pixels, where LeRobot samples images. Needs
the extra ``data``.

Shapes: ``J`` steps of the episode's trajectory, ``X`` frames that are new, ``P`` numbers of the state, ``A`` action channels.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...benchmarks.captions import Description, Segment
from ...envs.errors import VlarigError, not_importable
from ...results.records import EpisodeRecord
from ...results.run_files import sync

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

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_VALUES = np.arange(256) / 255.0


@dataclass(frozen=True)
class EpisodeSteps:
    """The steps of an episode, beside their images.

    Attributes:
        states: ``float32[J, P]``, each before its action.
        actions: ``float32[J, A]``.
        histograms: View to ``int64[3, 256]``: how often each value occurs in each colour, over all images.
        sizes: View to height and width.
        subtasks: A label for each step, in the order of time; empty where there are none.
        keypoints: ``float32[J, 14]``, what each step is about; ``None`` where the policy does not say.
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
        images: Mapping[str, np.ndarray],
        states: np.ndarray,
        actions: np.ndarray,
        subtasks: Sequence[str] = (),
        keypoints: np.ndarray | None = None,
    ) -> None:
        """Append steps.

        Args:
            images: View tag to ``uint8[X, h, w, 3]``, each before its action.
            states: ``float32[X, P]``, the same.
            actions: ``float32[X, A]``.
            subtasks: ``X`` labels, or none.
            keypoints: ``float32[X, 14]``, or none.
        """
        from av.error import FFmpegError

        if bool(subtasks) != bool(self._subtasks) and self._states:
            raise VlarigError("some steps of the episode name their subtask and others do not; name it at every step")
        if (keypoints is not None) != bool(self._keypoints) and self._states:
            raise VlarigError("some steps of the episode have keypoints and others do not; give them at every step")
        try:
            for view, frames in images.items():
                if view not in self._films:
                    self._films[view] = _Film(self._folder / f"{view}.mp4", self._rate, frames.shape[1:3])
                self._films[view].add(frames)
        except (OSError, FFmpegError) as error:
            raise VlarigError(f"{self._folder} cannot be written: {error}; check that there is space left") from error
        self._states.append(np.asarray(states, np.float32))
        self._actions.append(np.asarray(actions, np.float32))
        self._subtasks += subtasks
        if keypoints is not None:
            self._keypoints.append(keypoints)

    def finish(self, place: Path, description: Description | None = None) -> None:
        """Move the whole episode, and its words where they are known, to ``place``, where it survives a power loss."""
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


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode of the dataset.

    Attributes:
        record: Its record in the run's ledger.
        seed: Seed of all that the simulator sampled.
        place: Folder with its films and numbers, by :class:`EpisodeDraft`.
    """

    record: EpisodeRecord
    seed: int
    place: Path


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
        from PIL import Image

        if self._container is None:
            self._container = av.open(str(self.path), "w", format="mp4")
            self._stream = self._container.add_stream(CODEC, rate=self.rate)
            self._stream.height, self._stream.width = self.size
            self._stream.pix_fmt = pixel_format(*self.size)
            self._stream.options = CODEC_OPTIONS
        assert self._stream is not None
        tall = Image.fromarray(images.reshape(-1, *images.shape[2:]))  # its histogram takes a third of the time of np.bincount
        self.histogram += np.array(tall.histogram()).reshape(3, 256)
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
    try:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        raise VlarigError(not_importable("datasets need", error, "data")) from error


def pixel_format(height: int, width: int) -> str:
    """``yuv420p``, which all decoders read and which halves the colours' planes; for odd sizes ``yuv444p``, which does not."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def number_stats(values: np.ndarray) -> dict[str, Any]:
    """The statistics of ``[steps, n]``, or ``[steps]`` for a feature of one number."""
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    stats: dict[str, Any] = {
        "min": columns.min(0).tolist(),
        "max": columns.max(0).tolist(),
        "mean": columns.mean(0).tolist(),
        "std": columns.std(0).tolist(),
        "count": [len(columns)],
    }
    return stats | {name: np.quantile(columns, share, axis=0).tolist() for name, share in QUANTILES.items()}


def image_stats(histogram: np.ndarray, frames: int) -> dict[str, Any]:
    """The statistics of ``frames`` images, from ``int64[3, 256]``: how often each value occurs in each colour."""
    total = histogram.sum(1)
    mean = histogram @ _VALUES / total
    spread = np.sqrt(np.maximum((histogram * (_VALUES[None] - mean[:, None]) ** 2).sum(1) / total, 0.0))
    reached = np.cumsum(histogram, 1)
    seen = [np.flatnonzero(each) for each in histogram]
    stats: dict[str, Any] = {
        "min": [_VALUES[each[0]] for each in seen],
        "max": [_VALUES[each[-1]] for each in seen],
        "mean": mean.tolist(),
        "std": spread.tolist(),
    }
    for name, share in QUANTILES.items():
        stats[name] = [_VALUES[np.searchsorted(each, share * each[-1])] for each in reached]
    return {name: [[[float(value)]] for value in values] for name, values in stats.items()} | {"count": [frames]}


def subtask_segments(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Runs of the same label: ``subtask``, ``begin`` and ``end``, the step after its last."""
    segments: list[dict[str, Any]] = []
    begin = 0
    for label, run in itertools.groupby(labels):
        end = begin + len(list(run))
        segments.append({"subtask": label, "begin": begin, "end": end})
        begin = end
    return segments


def join_films(path: Path, films: Sequence[Path], rate: Fraction) -> None:
    """One film out of several that were encoded alike; nothing is encoded again."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "w", format="mp4") as joined:
            stream, begin = None, 0
            for film in films:
                with av.open(str(film)) as source:
                    own = source.streams.video[0]
                    if stream is None:
                        stream = joined.add_stream_from_template(own)
                    for packet in source.demux(own):
                        if packet.pts is None:
                            continue
                        assert packet.time_base is not None
                        place = begin + round(packet.pts * packet.time_base * rate)
                        packet.pts = packet.dts = round(place / rate / packet.time_base)
                        packet.stream = stream
                        joined.mux(packet)
                    begin += own.frames
    except FFmpegError as error:
        raise VlarigError(f"a film beside {films[0]} cannot be joined: {error}; record into another folder") from error


def column_of(values: np.ndarray) -> Any:
    """A column: single numbers, or lists of a fixed length; a feature of one number is no list (utils.py, hf_features)."""
    import pyarrow as pa

    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.ravel())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def write_names(path: Path, number: str, names: Sequence[str]) -> None:
    """Names with their numbers, as pandas stores a table whose index they are; LeRobot reads it by pandas."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = "__index_level_0__"
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    about = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": number, "field_name": number, "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": index, **text, "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({number: pa.array(range(len(names)), pa.int64()), index: pa.array(names, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path)


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
