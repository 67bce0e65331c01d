"""Scores answers to held-out questions: the companion benchmark of section 3.2.5, for what a simulator knows.

Boxes by their overlap, words exactly once normalised, captions by the facts that they name in each dimension. The paper prints no
rubric; what is decided here is in each function's docstring.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .boxes import Box, boxes_in
from .questions import Question

#: An answer with a box is right where the overlap is at least this, the usual threshold of grounding benchmarks.
RIGHT_OVERLAP = 0.5

_NUMBERS: dict[str, str] = {
    word: str(number)
    for number, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}
_ARTICLES = {"a", "an", "the"}


def iou(first: Box, second: Box) -> float:
    """Area of two boxes' intersection over that of their union, 0 where both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    either = _area(first) + _area(second) - both
    return both / either if either > 0 else 0.0


def overlap(found: Sequence[Box], expected: Sequence[Box]) -> float:
    """Mean overlap of boxes with those expected, matched one to one, the best match first; a missing or further box counts 0."""
    pairs = sorted(((iou(one, other), i, j) for i, one in enumerate(found) for j, other in enumerate(expected)), reverse=True)
    matched, used, total = set(), set(), 0.0
    for value, i, j in pairs:
        if i not in matched and j not in used:
            matched.add(i)
            used.add(j)
            total += value
    most = max(len(found), len(expected))
    return total / most if most else 1.0


def normalised(text: str) -> str:
    """Words of an answer: lower case, no punctuation, no articles, numbers up to ten as digits."""
    words: list[str] = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def named(caption: str, facts: Sequence[str]) -> set[str]:
    """The facts that a caption names.

    A fact is named where all its words are in one clause, in any order: ``red cube top left`` by "at the top left is a red cube". Of
    several facts that fit a clause, one whose words are a part of another's is not meant by it.
    """
    words = {fact: frozenset(normalised(fact).split()) for fact in facts}
    found: set[str] = set()
    for clause in re.split(r"[.;,\n]", caption):
        said = set(normalised(clause).split())
        fitting = [fact for fact in facts if words[fact] and words[fact] <= said]
        found |= {fact for fact in fitting if not any(words[fact] < words[other] for other in fitting)}
    return found


def score(question: Question, answer: str, pool: Mapping[str, Sequence[str]] | None = None) -> dict[str, float]:
    """The measures of an answer, 0 to 1.

    Args:
        question: The question, with the expected answer.
        answer: What was answered.
        pool: For captions: dimension to all facts that captions of the set may name, for precision; see :func:`caption_pool`.

    Returns:
        ``iou`` and ``right`` for boxes, ``right`` for words, ``<dimension> recall`` and ``<dimension> precision`` for captions.
    """
    if question.facts:
        return _caption_measures(answer, question.facts, pool or {})
    expected = [each.box for each in boxes_in(question.answer)]
    if expected:
        value = overlap([each.box for each in boxes_in(answer)], expected)
        return {"iou": value, "right": float(value >= RIGHT_OVERLAP)}
    return {"right": float(normalised(answer) == normalised(question.answer))}


def caption_pool(questions: Iterable[Question]) -> dict[str, list[str]]:
    """Dimension to every fact that a reference of the questions names."""
    pool: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        for dimension, facts in question.facts.items():
            pool[dimension].update(facts)
    return {dimension: sorted(facts) for dimension, facts in pool.items()}


def _caption_measures(answer: str, facts: Mapping[str, Sequence[str]], pool: Mapping[str, Sequence[str]]) -> dict[str, float]:
    measures = {}
    for dimension, expected in facts.items():
        said = named(answer, sorted({*expected, *pool.get(dimension, ())}))
        right = len(said & set(expected))
        measures[f"{dimension} recall"] = right / len(set(expected)) if expected else 1.0
        measures[f"{dimension} precision"] = right / len(said) if said else 0.0
    return measures


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
