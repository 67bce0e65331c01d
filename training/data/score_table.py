"""Scores as a table by kind of question, with intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...harness.screen import Screen
from ...results.bootstrap import resampled_interval
from ...results.statistics import wilson_interval
from .boxes import boxes_in
from .score_questions import Answer
from .scoring import normalised


@dataclass(frozen=True)
class Measured:
    """A measure of a kind of questions.

    Attributes:
        n: Questions.
        mean: Mean over them, 0 to 1.
        interval: Its 95 % interval; ``None`` where the images are too few or the values all alike.
        constant: What the most frequent expected answer would score, where answers are words: a model that sees no image can have it.
    """

    kind: str
    measure: str
    n: int
    mean: float
    interval: tuple[float, float] | None
    constant: float | None


def summarize(answers: Sequence[Answer]) -> list[Measured]:
    """Means with intervals, by kind and measure.

    ``right`` is a share of questions and has Wilson's interval. Others have a bootstrap's interval, which samples images with all their
    questions (:mod:`vlarig.results.bootstrap`), from a generator with the seed 0.
    """
    groups: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for each in sorted(answers, key=lambda answer: answer.kind):
        for measure in each.measures:
            groups[each.kind, measure].append(each)
    found = []
    for (kind, measure), some in groups.items():
        values = [each.measures[measure] for each in some]
        if measure == "right":
            interval = wilson_interval(round(sum(values)), len(values))
        else:
            of_image: dict[tuple[str, ...], list[float]] = defaultdict(list)
            for each, value in zip(some, values, strict=True):
                of_image[each.images or (each.name,)].append(value)
            clusters = np.array([(sum(inside), len(inside)) for inside in of_image.values()], np.float64)
            interval = resampled_interval([clusters], np.random.default_rng(0))
        constant = None
        if measure == "right" and not any(boxes_in(each.expected) for each in some):
            constant = Counter(normalised(each.expected) for each in some).most_common(1)[0][1] / len(some)
        found.append(Measured(kind, measure, len(some), fmean(values), interval, constant))
    return found


def show(measured: Sequence[Measured], screen: Screen) -> None:
    whole, blocks = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0)), []
    for index, name in enumerate(_COLUMNS):
        whole.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    for cells in map(_cells, measured):
        whole.add_row(*cells)
        rest = ", ".join(f"{name}: {cell}" for name, cell in zip(_COLUMNS[1:], cells[1:], strict=True) if cell)
        blocks.append((Text(cells[0]), rest))
    screen.print_table(whole, blocks)


_COLUMNS = ("kind", "measure", "n", "mean", "95 % interval", "constant")


def _cells(each: Measured) -> tuple[str, ...]:
    interval = "" if each.interval is None else f"{100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}"
    constant = "" if each.constant is None else f"{100 * each.constant:.1f}"
    return each.kind, each.measure, str(each.n), f"{100 * each.mean:.1f}", interval, constant
