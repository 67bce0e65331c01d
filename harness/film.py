"""Films and contact sheets of episodes, from frames. Needs the extra ``video``."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..envs.errors import VlarigError, not_importable
from ..envs.home import appearing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from PIL import Image, ImageFont

    _Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MARGIN = 12  # pixels around and between images
_FILM_HEIGHT = 256  # views are rendered at least this high, so that small ones can be seen
_FOOT = 26  # pixels below a film's views, for their names
_SHEET_HEIGHT = 160
_POSTER_QUALITY = 80
_DARK, _PALE, _GREY, _WHITE = (24, 26, 30), (236, 238, 241), (140, 146, 156), (255, 255, 255)
_INK, _FAINT = (28, 30, 34), (104, 110, 120)


class FilmWriter:
    """Writes an episode as an H.264 film that browsers play: the views side by side, each with its name, below a caption.

    Images are encoded as they come, so a long episode takes no more memory than a short one. The film appears when it is whole,
    and beside it its poster, a JPEG of the last image, which shows how the episode ended: end with :meth:`finish`, or with
    :meth:`discard`, which leaves nothing behind. Any thread may call; calls wait for each other.

    Args:
        path: The film, ``*.mp4``.
        frames_per_second: Speed; the embodiment's control frequency plays an episode in real time when each step has a frame.
        caption: One line above the images, shortened where it does not fit; kept whole as the film's title.

    Raises:
        ValueError: ``frames_per_second`` is not positive.
    """

    def __init__(self, path: Path, frames_per_second: float, caption: str = "") -> None:
        need_video_extra()
        if not frames_per_second > 0:
            raise ValueError(f"frames_per_second is {frames_per_second}, expected a positive number")
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.new")
        self._poster = path.with_suffix(".jpg")
        self._poster_draft = path.with_name(f".{self._poster.name}.{os.getpid()}.new")
        self._rate = Fraction(frames_per_second).limit_denominator(1000)
        self._caption = caption
        self._turn = threading.Lock()
        self._container: OutputContainer | None = None
        self._ended = False

    def add(self, frames: dict[str, np.ndarray]) -> None:
        """Append images.

        Args:
            frames: View tag to ``uint8[X, h, w, 3]``, upright, with the same ``X`` for all; the same views and sizes in every call.

        Raises:
            ValueError: There is no frame, the views do not match, the encoder does not take them, or the film has ended.
        """
        import av

        count = _frame_count(frames)
        sizes = {view: images.shape[1:] for view, images in frames.items()}
        with self._turn, self._plain_errors():
            if self._ended:
                raise ValueError(f"the film {self._path} has ended, expected no further frames")
            if self._container is None:
                self._open({view: images[0] for view, images in frames.items()})
                self._sizes = sizes
            if sizes != self._sizes:
                raise ValueError(f"frames of {self._path} have the sizes {sizes}, expected {self._sizes} as before")
            assert self._container is not None
            for index in range(count):
                image = self._background.copy()
                for view, (left, top, width, height) in self._places.items():
                    image.paste(_resized(frames[view][index], width, height), (left, top))
                self._container.mux(self._stream.encode(av.VideoFrame.from_image(image)))
                self._last = image

    def finish(self) -> None:
        """Write what the encoder still holds, and let the film and its poster appear. Raises like :meth:`add`."""
        with self._turn, self._plain_errors():
            if self._ended or self._container is None:
                raise ValueError(
                    f"the film {self._path} has {'ended' if self._ended else 'no frame'}, expected one that goes on"
                )
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._last.save(self._poster_draft, format="JPEG", quality=_POSTER_QUALITY)
            self._poster_draft.replace(self._poster)  # first: a film that is there counts as done
            self._draft.replace(self._path)
            self._ended = True

    def discard(self) -> None:
        """Give the film up, unless it is finished."""
        with self._turn:
            if self._container is not None and not self._ended:
                with contextlib.suppress(OSError):  # a full disk, which add reported
                    self._container.close()
                self._draft.unlink(missing_ok=True)
                self._poster_draft.unlink(missing_ok=True)
            self._ended = True

    def _open(self, first: dict[str, np.ndarray]) -> None:
        import av

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._background, self._places = _film_canvas(first, self._caption)
        self._draft.unlink(missing_ok=True)
        self._container = av.open(str(self._draft), "w", format="mp4", options={"movflags": "+faststart"})
        self._container.metadata["title"] = self._caption
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.pix_fmt = "yuv420p"
        # One thread a film: several are written side by side, beside the simulators.
        stream.options = {"crf": "20", "preset": "medium", "threads": "1"}
        stream.width, stream.height = self._background.size
        self._stream = stream

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        from av.error import FFmpegError

        try:
            yield
        except OSError as error:
            raise VlarigError(
                f"the film {self._path} cannot be written: {error}; check that its folder is writable, with space left"
            ) from error
        except FFmpegError as error:
            raise ValueError(f"the encoder does not take the frames of {self._path}: {error}") from error


def read_film(path: Path, count: int) -> tuple[str, list[np.ndarray]]:
    """The caption of a film by :class:`FilmWriter`, and ``count`` of its images, spread from the first to the last.

    Returns:
        The caption, and ``uint8[h, w, 3]`` each, with the views side by side as in the film.
    """
    need_video_extra()
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            caption = container.metadata.get("title", "")
            stream = container.streams.video[0]
            frames = np.linspace(0, stream.frames - 1, count).round().astype(int).tolist()
            images = {
                index: _without_canvas(frame.to_ndarray(format="rgb24"), caption)
                for index, frame in enumerate(container.decode(stream))
                if index in frames
            }
        return caption, [images[frame] for frame in frames]
    except (FFmpegError, IndexError, KeyError) as error:
        raise VlarigError(f"the film {path} cannot be read: {error}; delete it, and give the same command again") from error


def write_contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write a PNG with a row of images for each episode.

    Args:
        path: The image; it appears when it is whole.
        rows: For each episode its label (the first line is set in strong, further lines in faint letters) and its frames in
            order of time, each ``uint8[h, w, 3]``.

    Raises:
        ValueError: There is no row, or a row has no frame.
    """
    need_video_extra()
    from PIL import Image, ImageDraw

    if not rows or not all(len(frames) for _, frames in rows):
        raise ValueError("a contact sheet needs one row or more, each with one frame or more")
    strips = [[_scaled(_checked(frame), _SHEET_HEIGHT) for frame in frames] for _, frames in rows]
    strong, faint = _font(18), _font(15)
    inner = max(320, *(sum(image.width + _MARGIN // 2 for image in strip) - _MARGIN // 2 for strip in strips))
    labels = [
        [_fitted(line, faint if index else strong, inner) for index, line in enumerate(label.splitlines() or [""])]
        for label, _ in rows
    ]
    heights = [26 + 21 * (len(lines) - 1) + 4 + _SHEET_HEIGHT for lines in labels]
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, sum(heights) + 2 * _MARGIN * len(rows)), _WHITE)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for number, (lines, strip, height) in enumerate(zip(labels, strips, heights, strict=True)):
        if number:
            pen.line((_MARGIN, top - _MARGIN, sheet.width - _MARGIN, top - _MARGIN), fill=_PALE)
        for index, line in enumerate(lines):
            offset = 0 if index == 0 else 26 + 21 * (index - 1)
            pen.text((_MARGIN, top + offset), line, fill=_FAINT if index else _INK, font=faint if index else strong)
        left = _MARGIN
        for image in strip:
            sheet.paste(image, (left, top + height - _SHEET_HEIGHT))
            left += image.width + _MARGIN // 2
        top += height + 2 * _MARGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as draft:
        sheet.save(draft, format="PNG", optimize=True)


def need_video_extra() -> None:
    try:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise VlarigError(not_importable("films need", error, "video")) from error


def _frame_count(frames: dict[str, np.ndarray]) -> int:
    """``X``, which all views share."""
    shapes = {view: list(images.shape) for view, images in frames.items()}
    if not frames or len({len(images) for images in frames.values()}) != 1 or not all(map(len, frames.values())):
        raise ValueError(f"frames have the shapes {shapes}; expected one view or more, uint8[X, h, w, 3] with the same X >= 1")
    for images in frames.values():
        _checked(images[0])
    return len(next(iter(frames.values())))


def _checked(image: np.ndarray) -> np.ndarray:
    """``image`` if it is ``uint8[h, w, 3]``."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a frame is {image.dtype}{list(image.shape)}, expected uint8[h, w, 3]")
    return image


def _without_canvas(image: np.ndarray, caption: str) -> np.ndarray:
    """The views in an image that was rendered on :func:`_film_canvas`; a copy, so that the rest need not be kept."""
    height, width, _ = image.shape
    return image[_head(caption) : height - _FOOT, _MARGIN : width - _MARGIN].copy()


def _head(caption: str) -> int:
    """Pixels above a film's views."""
    return _MARGIN + (24 if caption else 0)


def _film_canvas(first: dict[str, np.ndarray], caption: str) -> tuple[Image.Image, dict[str, tuple[int, int, int, int]]]:
    """All of a film that does not move, and for each view its place: left, top, width, height."""
    from PIL import Image, ImageDraw

    height = max(_FILM_HEIGHT, *(image.shape[0] for image in first.values()))
    widths = {view: round(image.shape[1] * height / image.shape[0]) for view, image in first.items()}
    top = _head(caption)
    width = sum(widths.values()) + _MARGIN * (len(widths) + 1)
    total = top + height + _FOOT
    canvas = Image.new("RGB", (width + width % 2, total + total % 2), _DARK)  # yuv420p halves the colour planes: even sizes
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 9), _fitted(caption, _font(15), width - 2 * _MARGIN), fill=_PALE, font=_font(15))
    places: dict[str, tuple[int, int, int, int]] = {}
    left = _MARGIN
    for view, view_width in widths.items():
        places[view] = (left, top, view_width, height)
        pen.text((left, top + height + 5), _fitted(view, _font(12), view_width), fill=_GREY, font=_font(12))
        left += view_width + _MARGIN
    return canvas, places


def _scaled(image: np.ndarray, height: int) -> Image.Image:
    return _resized(image, max(1, round(image.shape[1] * height / image.shape[0])), height)


def _resized(image: np.ndarray, width: int, height: int) -> Image.Image:
    from PIL import Image

    whole = Image.fromarray(np.ascontiguousarray(image))
    return whole if whole.size == (width, height) else whole.resize((width, height), Image.Resampling.LANCZOS)


def _font(size: int) -> _Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitted(text: str, font: _Font, width: int) -> str:
    """``text``, shortened with an ellipsis until it is no wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
