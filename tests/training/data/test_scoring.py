"""Scores of answers: boxes by overlap, words once normalised, captions by the facts that they name."""

from __future__ import annotations

import json

import pytest

from vlarig.training.data.questions import Question
from vlarig.training.data.scoring import caption_pool, iou, named, normalised, overlap, score


def words(answer: str, kind: str = "count", facts: dict | None = None) -> Question:
    return Question(kind, "What?", answer, facts or {})


def boxed(*boxes: list[int]) -> str:
    return json.dumps([{"bbox_2d": box, "label": "cube"} for box in boxes])


def test_overlap_is_that_of_areas() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


def test_boxes_are_matched_and_missing_and_further_ones_count_nothing() -> None:
    one, other = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
    assert overlap([other, one], [one, other]) == 1
    assert overlap([one], [one, other]) == 0.5
    assert overlap([one, one, other], [one, other]) == pytest.approx(2 / 3)
    assert overlap([], [one]) == 0


@pytest.mark.parametrize(
    ("answer", "iou", "right"),
    [
        (boxed([100, 100, 300, 300]), 1.0, 1.0),
        ("```json\n" + boxed([100, 100, 300, 400]) + "\n```", 2 / 3, 1.0),
        (boxed([200, 100, 400, 300]), 1 / 3, 0.0),
        ("I see none.", 0.0, 0.0),
    ],
)
def test_an_answer_with_a_box_is_right_from_half_an_overlap(answer, iou, right) -> None:
    found = score(words(boxed([100, 100, 300, 300]), "where"), answer)
    assert found == {"iou": pytest.approx(iou), "right": right}


@pytest.mark.parametrize(("answer", "right"), [("Two.", 1), ("2", 1), ("there are two", 0), ("three", 0), ("", 0)])
def test_words_are_compared_exactly_once_normalised(answer, right) -> None:
    assert score(words("2"), answer) == {"right": right}
    assert normalised("The  red-cube, a CUBE!") == "red cube cube"


FACTS = {
    "object recognition": ["red cube", "blue cylinder"],
    "source location": ["red cube top left", "blue cylinder left"],
}


def test_a_reference_scores_full_marks_and_word_order_does_not_matter() -> None:
    question = words("There is a red cube at the top left; a blue cylinder at the left.", "caption", FACTS)
    full = dict.fromkeys(
        [f"{dimension} {measure}" for dimension in FACTS for measure in ("recall", "precision")], pytest.approx(1.0)
    )
    assert score(question, question.answer) == full
    assert score(question, "At the left, a blue cylinder. In the top left corner is the red cube.") != full
    assert score(question, "At the left is a blue cylinder. In the top left corner is the red cube.") == full


def test_a_caption_is_scored_by_dimension() -> None:
    question = words("", "caption", FACTS)
    pool = caption_pool(
        [words("", facts={"object recognition": ["green cube"], "source location": ["red cube left"]}), question]
    )
    found = score(question, "A red cube at the left; a green cube at the left.", pool)
    assert found["object recognition recall"] == 0.5
    assert found["object recognition precision"] == 0.5
    assert found["source location recall"] == 0
    assert found["source location precision"] == 0


def test_the_longer_of_two_facts_is_meant() -> None:
    facts = ["red cube left", "red cube top left"]
    assert named("A red cube at the top left.", facts) == {"red cube top left"}
    assert named("A red cube at the left.", facts) == {"red cube left"}
