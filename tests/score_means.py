"""Scores of answers as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

from vlarig.training.data.score_questions import Answer, summarize


def means_of(answers: Sequence[Answer]) -> dict[tuple[str, str], float]:
    """Kind and measure to the mean over the kind's questions."""
    return {(each.kind, each.measure): each.mean for each in summarize(answers)}
