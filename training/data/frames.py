"""Frames of a recording: out of a video, or out of a folder of images. Needs the extra ``video``."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.errors import not_importable
from .errors import DataError, MissingFrames
from .film_reader import Film

#: Endings of the images in a folder.
IMAGES = (".jpg", ".jpeg", ".png")

#: A frame that is further ahead than this is reached by a new seek instead of decoding all before it.
_SEEK_SECONDS = 4.0


def read_image(source: Path | BytesIO, what: str) -> np.ndarray:
    """``uint8[h, w, 3]``; transparency is dropped.

    Args:
        source: The image's file, or its bytes.
        what: Names it in errors.

    Raises:
        DataError: It is missing or no whole image.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{what} is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{what} does not read ({error}); get it again, or leave it out") from None


def read_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Frames by their index from 0, ``uint8[X, h, w, 3]`` in the order of ``indices``, which may repeat.

    Args:
        path: A video of constant rate, or a folder of images (:data:`IMAGES`) whose names sort in the order of time.
        indices: ``X`` of them.
    """
    if not indices:
        raise DataError(f"no frame of {path} is wanted, expected one at least")
    if min(indices) < 0:
        raise DataError(f"frame {min(indices)} of {path} is wanted, expected 0 or more")
    found = _from_folder(path, set(indices)) if path.is_dir() else _from_video(path, sorted(set(indices)))
    shapes = {image.shape for image in found.values()}
    if len(shapes) > 1:
        raise DataError(f"frames of {path} differ in size: {sorted(shapes)}; scale them to one size")
    return np.stack([found[index] for index in indices])


def frame_rate(path: Path) -> float:
    with _opened(path) as container:
        rate = container.streams.video[0].average_rate
    if not rate:
        raise DataError(f"the video {path} says no rate; write it again with a constant one")
    return float(rate)


def frame_count(path: Path) -> int:
    """Frames of a video as its index has them, or images in a folder, without decoding any."""
    if path.is_dir():
        return len(_images(path))
    with _opened(path) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(packet.pts is not None for packet in container.demux(stream))


def need_frames(path: Path, count: int) -> None:
    """Make sure that a video, or a folder of images, has so many frames.

    Raises:
        MissingFrames: It is not there, or has fewer.
    """
    if not path.exists():
        raise MissingFrames(f"the video {path} is missing; get it from the data's publisher")
    found = frame_count(path)
    if found < count:
        raise MissingFrames(f"{path} has {found} frames, the poses need {count}; is it whole?")


def _opened(path: Path) -> Any:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise DataError(not_importable("videos need", error, "video")) from None
    try:
        container = av.open(str(path))
    except (OSError, FFmpegError) as error:
        raise DataError(f"the video {path} does not open ({error}); check that it is there and whole") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path} has no video in it; name the file with the images")
    return container


def _from_video(path: Path, wanted: list[int]) -> dict[int, np.ndarray]:
    """The wanted frames, which are sorted. A frame's index is its time times the rate, so the rate has to be constant."""
    with _opened(path) as container:
        from av.error import FFmpegError

        stream = container.streams.video[0]
        if not stream.average_rate or not stream.time_base:
            raise DataError(f"the video {path} says no rate; write it again with a constant one")
        rate, start = float(stream.average_rate), float((stream.start_time or 0) * stream.time_base)
        film = Film(container, rate, _SEEK_SECONDS * rate)
        found: dict[int, np.ndarray] = {}
        for index in wanted:
            try:
                found[index] = film.frame(start + index / rate)
            except EOFError as error:
                last = round((film.reached - start) * rate)
                raise DataError(
                    f"the video {path} has no frame {index}, the last that decodes is {last} ({error}); is it whole?"
                ) from None
            except FFmpegError as error:
                raise DataError(f"the video {path} does not decode at frame {index} ({error}); is it whole?") from None
    return found


def _from_folder(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    files = _images(path)
    if max(wanted) >= len(files):
        raise DataError(f"the folder {path} has {len(files)} images, frame {max(wanted)} is wanted; is it whole?")
    return {index: read_image(files[index], f"the image {files[index]}") for index in wanted}


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES)
