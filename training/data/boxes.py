"""Boxes in answers: in thousandths of the image's sides, as Qwen3-VL writes them.

The paper normalises all boxes to a 1000-scale coordinate system (section 3.2.5). Qwen3-VL's own data does so, with x first:
``{"bbox_2d": [x1, y1, x2, y2], "label": "red cube"}``, relative to the image whatever its size (QwenLM/Qwen3-VL
cookbooks/2d_grounding.ipynb: pixels are ``x / 1000 * width``; qwen-vl-finetune/README.md@23ec840, the grounding example).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Both sides of an image, in the units of a box.
SCALE = 1000

#: Left, top, right, bottom.
Box = tuple[float, float, float, float]

#: A box in a text, also in one that is no whole JSON.
_BOX = re.compile(r'("bbox_2d"\s*:\s*)\[([^\[\]]*)\]')
_LABEL = re.compile(r'[^{}]*"label"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Labelled:
    """A box in thousandths of the image's sides, and what it shows, where that is given."""

    box: Box
    label: str = ""


def to_thousandths(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in pixels, left, top, right and bottom, in thousandths of an image of that size, rounded and within it."""
    left, top, right, bottom = box
    return _of_side(left, width), _of_side(top, height), _of_side(right, width), _of_side(bottom, height)


def to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """The inverse of :func:`to_thousandths`, up to its rounding."""
    left, top, right, bottom = box
    return left * width / SCALE, top * height / SCALE, right * width / SCALE, bottom * height / SCALE


def box_text(found: Sequence[Labelled]) -> str:
    """The answer that states these boxes: a JSON list, as Qwen3-VL gives for one object and for many."""
    entries = [{"bbox_2d": [round(side) for side in each.box], "label": each.label} for each in found]
    return json.dumps(entries, ensure_ascii=False)


def boxes_in(text: str) -> list[Labelled]:
    """The boxes that an answer states, in its order; what is no box of four numbers is left out.

    An answer of a model may be cut off, or have words or a code fence around it, so it is not read as JSON.
    """
    found = []
    for match in _BOX.finditer(text):
        numbers = _numbers(match[2])
        if numbers is not None:
            label = _LABEL.match(text, match.end())
            found.append(Labelled(numbers, json.loads(label[1]) if label else ""))
    return found


def check_boxes(text: str) -> None:
    """Make sure that every box of an answer is four numbers, in order, within 0 to 1000.

    Raises:
        ValueError: One is not; the sentence names it.
    """
    for match in _BOX.finditer(text):
        if not _is_within(_numbers(match[2]), SCALE, SCALE):
            raise ValueError(
                f"its answer has the box [{match[2]}]; expected left, top, right, bottom in thousandths of the image, 0 to {SCALE} "
                "(boxes in pixels are converted with boxes='pixels')"
            )


def pixels_to_thousandths(text: str, width: int, height: int) -> str:
    """An answer whose boxes are in pixels with all of them in thousandths.

    Raises:
        ValueError: A box is not four numbers, or lies outside the image.
    """

    def convert(match: re.Match[str]) -> str:
        numbers = _numbers(match[2])
        if numbers is None or not _is_within(numbers, width, height):
            raise ValueError(
                f"its answer has the box [{match[2]}], which is none within its image of {width} x {height} pixels"
            )
        return f"{match[1]}{list(to_thousandths(numbers, width, height))}"

    return _BOX.sub(convert, text)


def _of_side(place: float, side: int) -> int:
    return min(max(round(place / side * SCALE), 0), SCALE)


def _numbers(text: str) -> Box | None:
    try:
        left, top, right, bottom = (float(word) for word in text.split(","))
    except ValueError:
        return None
    return left, top, right, bottom


def _is_within(box: Box | None, width: float, height: float) -> bool:
    return box is not None and 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height
