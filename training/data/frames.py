"""Images and videos from files: frames by their index, and videos as conversations take them. Needs the extra ``video``."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...envs.errors import not_importable
from ...policies.qwen_vla.conversation import Video
from .errors import DataError, MissingFrames
from .film_reader import Film

if TYPE_CHECKING:
    from av.container import InputContainer

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


def need_frames(path: Path, count: int) -> None:
    """Make sure that a video, as its index has them, or a folder of images has so many frames; none is decoded.

    Raises:
        MissingFrames: It is not there, or has fewer.
    """
    if not path.exists():
        raise MissingFrames(f"the video {path} is missing; get it from the data's publisher")
    if path.is_dir():
        found = len(_images(path))
    else:
        with _opened(path) as container:
            stream = container.streams.video[0]
            found = stream.frames or sum(packet.pts is not None for packet in container.demux(stream))
    if found < count:
        raise MissingFrames(f"{path} has {found} frames, the poses need {count}; is it whole?")


def _opened(path: Path) -> InputContainer:
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


def read_video(path: Path, fps: float, max_frames: int, begin: float = 0.0, end: float | None = None) -> Video:
    """Frames of a video file at ``fps``; where these were more than ``max_frames``, as many, evenly over the time.

    The frame of a time is the one that a player shows then. Times count from ``begin``.

    Args:
        path: The file.
        fps: Frames a second of what is returned.
        max_frames: Most frames that are returned.
        begin: Where it begins, in seconds of the file.
        end: Where it ends; at the file's end by default.
    """
    import av
    from av.error import FFmpegError

    if not path.is_file():
        raise DataError(f"its video {path} is missing")
    try:
        with av.open(str(path)) as container:
            times, stated = _times(container)
        if not times:
            raise DataError(f"its video {path} has no frame")
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / fps
        last = times[-1] + step
        if stated is not None and stated > last + 2 * step and (end is None or end > last + step):
            raise DataError(f"its video {path} is truncated: its frames end at {last:.2f} s of {stated:.2f} s")
        wanted = _moments(begin, last if end is None else min(end, last), fps, max_frames)
        if not wanted:
            raise DataError(f"its video {path} lasts {last:.2f} s; there is nothing from {begin:.2f} s to {end or last:.2f} s")
        shown = np.maximum(np.searchsorted(np.array(times), np.array(wanted) + 1e-6, side="right") - 1, 0).tolist()
        with av.open(str(path)) as container:
            frames = _decoded(container, set(shown))
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        raise DataError(f"its video {path} does not decode ({error})") from None
    missing = [time for time, index in zip(wanted, shown, strict=True) if index not in frames]
    if missing:
        raise DataError(f"its video {path} is truncated: its frame at {missing[0]:.2f} s does not decode")
    return Video(np.stack([frames[index] for index in shown]), tuple(round(time - begin, 6) for time in wanted))


def _times(container: InputContainer) -> tuple[list[float], float | None]:
    """When each frame is shown, ascending from 0, without decoding; and the seconds that the file states, where it states any."""
    stream = container.streams.video[0]
    stated = None
    if stream.duration is not None and stream.time_base is not None:
        stated = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        stated = container.duration / 1_000_000  # a container counts in microseconds
    times = sorted(float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None)
    return [time - times[0] for time in times], stated


def _decoded(container: InputContainer, wanted: set[int]) -> dict[int, np.ndarray]:
    """The frames of these numbers, in the order in which they are shown, as far as they decode; no others are kept."""
    frames: dict[int, np.ndarray] = {}
    for number, frame in enumerate(container.decode(container.streams.video[0])):
        if number in wanted:
            frames[number] = frame.to_ndarray(format="rgb24")
        if number >= max(wanted):
            break
    return frames


def _moments(begin: float, end: float, fps: float, most: int) -> list[float]:
    """Times from ``begin``, before ``end``."""
    count = int(np.ceil((end - begin) * fps - 1e-6))
    if count <= most:
        return [begin + index / fps for index in range(count)]
    return [begin + float(part) * (end - begin) for part in np.arange(most) / most]
