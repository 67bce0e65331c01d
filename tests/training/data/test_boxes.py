"""Boxes of answers: their scale, their text, and what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarig.training.data.boxes import (
    Labelled,
    box_text,
    boxes_in,
    check_boxes,
    pixels_to_thousandths,
    to_pixels,
    to_thousandths,
)

SIDES = st.integers(1, 4000)
SHARES = st.tuples(*[st.floats(0, 1)] * 4).map(lambda four: (*sorted(four[:2]), *sorted(four[2:])))


def test_a_box_is_in_thousandths_of_width_and_height() -> None:
    assert to_thousandths((64, 32, 128, 96), width=128, height=96) == (500, 333, 1000, 1000)
    assert to_thousandths((-3, 0, 500, 10), width=128, height=96) == (0, 0, 1000, 104)


@given(SHARES, SIDES, SIDES)
def test_a_box_comes_back_within_half_a_thousandth(shares, width, height) -> None:
    left, right, top, bottom = shares
    box = (left * width, top * height, right * width, bottom * height)
    again = to_pixels(to_thousandths(box, width, height), width, height)
    for place, its, side in zip(box, again, (width, height) * 2, strict=True):
        assert abs(place - its) <= side * 0.0005 + 1e-9


def test_the_text_is_json_and_reads_back() -> None:
    found = [Labelled((1, 2, 3, 4), 'a "red" cube'), Labelled((0, 0, 1000, 1000), "table")]
    assert json.loads(box_text(found))[0] == {"bbox_2d": [1, 2, 3, 4], "label": 'a "red" cube'}
    assert boxes_in(box_text(found)) == found


@pytest.mark.parametrize(
    "answer",
    [
        '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "house"}\n]\n```',  # as Qwen3-VL answers
        '{"label": "house", "bbox_2d": [10, 20, 30, 40]}',
        '[{"bbox_2d": [10, 20, 30, 40], "label": "house"}, {"bbox_2d": [50, 6',  # cut off
    ],
)
def test_an_answer_around_the_json_or_a_cut_one_is_read(answer) -> None:
    (found,) = boxes_in(answer)
    assert found.box == (10, 20, 30, 40)


@pytest.mark.parametrize("box", ["[10, 20, 30]", "[10, 20, 1030, 40]", "[30, 20, 10, 40]", "[-1, 0, 1, 1]", '["a", 0, 1, 1]'])
def test_a_box_that_is_none_is_named(box) -> None:
    with pytest.raises(ValueError, match="expected left, top, right, bottom in thousandths"):
        check_boxes(f'{{"bbox_2d": {box}}}')


def test_pixels_are_converted_where_they_are_written() -> None:
    answer = 'There: {"bbox_2d": [10, 20, 30, 40], "label": "x"}'
    assert pixels_to_thousandths(answer, 100, 200) == 'There: {"bbox_2d": [100, 100, 300, 200], "label": "x"}'
    with pytest.raises(ValueError, match="none within its image of 25 x 200 pixels"):
        pixels_to_thousandths(answer, 25, 200)
