"""Frames out of films, by their times: exact to the frame, with films that stay open and are read on where that is quicker."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Films that a process keeps open.
MOST_OPEN = 32

#: A wanted frame at most this many after the last one is reached by decoding on; a farther one by a jump to its key frame.
NEAR = 8


class FilmReader:
    """Decodes frames by their times. It is pickled without what it has open; each process and each thread opens its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._local = threading.local()

    def read(self, path: str, second: float, fps: float, sample: str) -> np.ndarray:
        """The frame at a time, ``uint8[h, w, 3]``.

        Args:
            path: The film.
            second: The frame's time in it, to half of a frame's duration.
            fps: Frames a second.
            sample: Names the sample in errors.
        """
        import av
        from av.error import FFmpegError

        films = self._films()
        try:
            film = films.get(path)
            if film is None:
                film = films[path] = Film(av.open(path), fps)
                if len(films) > MOST_OPEN:
                    films.popitem(last=False)[1].close()
            films.move_to_end(path)
            return film.frame(second)
        except FileNotFoundError:
            films.pop(path, None)
            raise DataError(f"there is no film {path}, which {sample} needs; download it again") from None
        except (FFmpegError, EOFError, IndexError) as error:
            broken = films.pop(path, None)
            if broken is not None:
                broken.close()
            reason = str(error).split(":")[0].removeprefix("[Errno").strip() if isinstance(error, FFmpegError) else str(error)
            raise DataError(
                f"the film {path} cannot be read at {second:.3f} s, which {sample} needs ({reason}): it is cut off or damaged; "
                "download it again, or leave the episode out"
            ) from None

    def _films(self) -> OrderedDict[str, Film]:
        if getattr(self._local, "process", None) != os.getpid():  # a forked process would share the files' positions
            self._local.process = os.getpid()
            self._local.films = OrderedDict()
        return self._local.films


class Film:
    """One open film, whose frames are read by their times.

    Args:
        container: The film.
        fps: Frames a second.
        near: As :data:`NEAR`.

    Attributes:
        reached: Seconds of the frame that was decoded last; -1 before the first.
    """

    def __init__(self, container: InputContainer, fps: float, near: float = NEAR) -> None:
        from av.video.reformatter import VideoReformatter

        self.reached = -1.0
        self._container = container
        self._stream: VideoStream = container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # processes decode side by side
        assert self._stream.time_base is not None
        self._base = float(self._stream.time_base)
        self._duration = 1 / fps
        self._near = near
        self._frames: Iterator[VideoFrame] = iter(())
        self._last: VideoFrame | None = None
        # Kept, and with one thread: a converter for each frame takes half as long as its decoding, and its threads wait for each other.
        self._converter = VideoReformatter()

    def frame(self, second: float) -> np.ndarray:
        """The frame at that time.

        Raises:
            EOFError: There is none, or it is damaged.
        """
        half = self._duration / 2
        ahead = None if self._last is None else (second - self._time(self._last)) / self._duration
        if ahead is None or ahead <= -0.5 or ahead > self._near:
            self._last = None
            self._container.seek(max(0, round(second / self._base)), stream=self._stream)
            self._frames = self._container.decode(self._stream)
        if self._last is not None and abs(second - self._time(self._last)) < half:
            return self._image(self._last)
        for frame in self._frames:
            self.reached = time = self._time(frame)
            if time < second - half:
                continue
            self._last = frame
            if time >= second + half:
                raise EOFError(f"its nearest frame is at {time:.3f} s")
            if frame.is_corrupt:  # the decoder fills in what it cannot read, and says so here alone
                raise EOFError("the frame is damaged")
            return self._image(frame)
        self._last = None
        raise EOFError("it ends before")

    def close(self) -> None:
        self._container.close()

    def _image(self, frame: VideoFrame) -> np.ndarray:
        return self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()

    def _time(self, frame: VideoFrame) -> float:
        assert frame.pts is not None
        return frame.pts * self._base
