"""Images and videos from files, as conversations take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from ...policies.qwen_vla.conversation import Video
from .errors import DataError
from .frames import read_image


def read_video(path: Path, fps: float, max_frames: int, begin: float = 0.0, end: float | None = None) -> Video:
    """Frames of a video file at ``fps``; where these were more than ``max_frames``, as many, evenly over the time.

    The frame of a time is the one that a player shows then. Times count from ``begin``.

    Args:
        path: The file.
        fps: Frames a second of what is returned.
        max_frames: Most frames that are returned.
        begin: Where it begins, in seconds of the file.
        end: Where it ends; at the file's end by default.

    Raises:
        DataError: It is missing, ends before the time that it states, or does not decode.
    """
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
        shown = np.searchsorted(np.array(times), np.array(wanted) + 1e-6, side="right") - 1
        with av.open(str(path)) as container:
            frames = _decoded(container, {max(int(index), 0) for index in shown})
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        raise DataError(f"its video {path} does not decode ({error})") from None
    missing = [moment for moment, index in zip(wanted, shown, strict=True) if max(int(index), 0) not in frames]
    if missing:
        raise DataError(f"its video {path} is truncated: its frame at {missing[0]:.2f} s does not decode")
    stack = np.stack([frames[max(int(index), 0)] for index in shown])
    return Video(stack, tuple(round(moment - begin, 6) for moment in wanted))


def read_frames(paths: Sequence[Path], seconds: Sequence[float]) -> Video:
    """A video of images in files, all of one size.

    Raises:
        DataError: One does not read or has another size, or times and files are not equally many.
    """
    if len(paths) != len(seconds) or not paths:
        raise DataError(f"its video has {len(paths)} frames and {len(seconds)} times; expected as many, and one at least")
    frames = [read_image(path, f"its image {path}") for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise DataError(
                f"the frame {path} of its video is {frame.shape[:2]}, the first {frames[0].shape[:2]}; expected one size"
            )
    return Video(np.stack(frames), tuple(seconds))


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
