"""Films and contact sheets of episodes, from frames. Needs the extra ``video``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..envs.errors import VlarigError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    _Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MARGIN = 12  # pixels around and between pictures
_FILM_HEIGHT = 256  # views are drawn at least this high, so that small ones can be seen
_SHEET_HEIGHT = 160
_DARK, _PALE, _GREY, _WHITE = (24, 26, 30), (236, 238, 241), (140, 146, 156), (255, 255, 255)
_INK, _FAINT = (28, 30, 34), (104, 110, 120)


def write_film(path: Path, frames: dict[str, np.ndarray], frames_per_second: float, caption: str = "") -> None:
    """Write an episode as an H.264 film that browsers play: the views side by side, each with its name, below a caption.

    Args:
        path: The film, ``*.mp4``; it appears when it is whole.
        frames: View tag to ``uint8[F, h, w, 3]``, upright, with the same ``F`` for all.
        frames_per_second: Speed; the embodiment's control frequency plays an episode in real time when each row has a frame.
        caption: One line above the pictures; shortened where it does not fit.

    Raises:
        VlarigError: The extra ``video`` is not installed.
        ValueError: There is no frame, or the views do not match.
    """
    need_video_extra()
    import av

    count = _frame_count(frames)
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second is {frames_per_second}, expected a positive number")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "20", "preset": "medium"}
            background, places = _film_canvas({view: images[0] for view, images in frames.items()}, caption)
            stream.width, stream.height = background.size
            for index in range(count):
                picture = background.copy()
                for view, (left, top, width, height) in places.items():
                    picture.paste(_resized(frames[view][index], width, height), (left, top))
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write a PNG with a row of pictures for each episode.

    Args:
        path: The picture; it appears when it is whole.
        rows: For each episode its label (the first line is set in strong, further lines in faint letters) and its frames in
            order of time, each ``uint8[h, w, 3]``.

    Raises:
        VlarigError: The extra ``video`` is not installed.
        ValueError: There is no row, or a row has no frame.
    """
    need_video_extra()
    from PIL import Image, ImageDraw

    if not rows or not all(len(frames) for _, frames in rows):
        raise ValueError("a contact sheet needs one row or more, each with one frame or more")
    strips = [[_scaled(_checked(frame), _SHEET_HEIGHT) for frame in frames] for _, frames in rows]
    strong, faint = _font(18), _font(15)
    inner = max(320, *(sum(picture.width + _MARGIN // 2 for picture in strip) - _MARGIN // 2 for strip in strips))
    labels = [_label_lines(label, strong, faint, inner) for label, _ in rows]
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
        for picture in strip:
            sheet.paste(picture, (left, top + height - _SHEET_HEIGHT))
            left += picture.width + _MARGIN // 2
        top += height + 2 * _MARGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        sheet.save(draft, format="PNG", optimize=True)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def need_video_extra() -> None:
    """Make sure that films can be written here.

    Raises:
        VlarigError: The extra ``video`` is not installed.
    """
    try:
        import av  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise VlarigError(
            f"films need the package {error.name!r}, which is not installed; pip install 'vlarig[video]'"
        ) from error


def _frame_count(frames: dict[str, np.ndarray]) -> int:
    """``F``, which all views share."""
    shapes = {view: list(images.shape) for view, images in frames.items()}
    if not frames or len({len(images) for images in frames.values()}) != 1 or not all(map(len, frames.values())):
        raise ValueError(f"frames have the shapes {shapes}; expected one view or more, uint8[F, h, w, 3] with the same F >= 1")
    for images in frames.values():
        _checked(images[0])
    return len(next(iter(frames.values())))


def _checked(image: np.ndarray) -> np.ndarray:
    """``image`` if it is ``uint8[h, w, 3]``."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a frame is {image.dtype}{list(image.shape)}, expected uint8[h, w, 3]")
    return image


def _film_canvas(first: dict[str, np.ndarray], caption: str) -> tuple[Image.Image, dict[str, tuple[int, int, int, int]]]:
    """All of a film that does not move, and for each view its place: left, top, width, height."""
    from PIL import Image, ImageDraw

    height = max(_FILM_HEIGHT, *(image.shape[0] for image in first.values()))
    widths = {view: round(image.shape[1] * height / image.shape[0]) for view, image in first.items()}
    top = _MARGIN + (24 if caption else 0)
    width = sum(widths.values()) + _MARGIN * (len(widths) + 1)
    total = top + height + 26
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

    picture = Image.fromarray(np.ascontiguousarray(image))
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)


def _font(size: int) -> _Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _label_lines(label: str, strong: _Font, faint: _Font, width: int) -> list[str]:
    """The lines of a label, each shortened to ``width`` pixels."""
    lines = label.splitlines() or [""]
    return [_fitted(line, faint if index else strong, width) for index, line in enumerate(lines)]


def _fitted(text: str, font: _Font, width: int) -> str:
    """``text``, shortened with an ellipsis until it is no wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
