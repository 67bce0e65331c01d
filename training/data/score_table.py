"""Scores as a table by kind of question, with intervals, and as a page of answers with their pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...harness.screen import Screen
from ...policies.qwen_vla.conversation import Picture
from ...results.bootstrap import resampled_interval
from ...results.statistics import wilson_interval
from .boxes import boxes_in
from .inspection import picture_text
from .score_questions import Answer, Posed, by_measure
from .scoring import normalised

#: Height of a picture on the page, in pixels.
_HEIGHT = 320


@dataclass(frozen=True)
class Measured:
    """A measure of a kind of questions.

    Attributes:
        kind: The kind.
        measure: The measure.
        n: Questions.
        mean: Mean over them, 0 to 1.
        interval: Its 95 % interval; ``None`` where the pictures are too few or the values all alike.
        constant: What the most frequent expected answer would score, where answers are words: a model that sees nothing can have it.
    """

    kind: str
    measure: str
    n: int
    mean: float
    interval: tuple[float, float] | None
    constant: float | None


def summarize(answers: Sequence[Answer]) -> list[Measured]:
    """Means with intervals, by kind and measure.

    ``right`` is a share of questions and has Wilson's interval. Others have a bootstrap's that draws pictures with all their questions
    (:mod:`vlarig.results.bootstrap`), from a generator with the seed 0.

    Raises:
        VlarigError: scipy is not installed.
    """
    found = []
    for (kind, measure), some in by_measure(answers).items():
        values = [each.measures[measure] for each in some]
        if measure == "right":
            interval = wilson_interval(round(sum(values)), len(values))
        else:
            of_picture: dict[tuple[str, ...], list[float]] = defaultdict(list)
            for each, value in zip(some, values, strict=True):
                of_picture[each.pictures or (each.name,)].append(value)
            clusters = np.array([(sum(inside), len(inside)) for inside in of_picture.values()], np.float64)
            interval = resampled_interval([clusters], np.random.default_rng(0))
        constant = None
        if measure == "right" and not any(boxes_in(each.expected) for each in some):
            constant = Counter(normalised(each.expected) for each in some).most_common(1)[0][1] / len(some)
        found.append(Measured(kind, measure, len(some), fmean(values), interval, constant))
    return found


def show(measured: Sequence[Measured], screen: Screen) -> None:
    """Print the table."""
    whole, blocks = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0)), []
    rows = list(map(_cells, measured))
    for index, name in enumerate(_COLUMNS):
        width = max(len(name), *(len(cells[index]) for cells in rows))
        whole.add_column(name, justify="left" if index < 2 else "right", no_wrap=True, min_width=width)
    for cells in rows:
        whole.add_row(*cells)
        rest = ", ".join(f"{name}: {cell}" for name, cell in zip(_COLUMNS[1:], cells[1:], strict=True) if cell)
        blocks.append((Text(cells[0]), rest))
    screen.print_table(whole, blocks)


def write_page(
    measured: Sequence[Measured], answers: Sequence[Answer], questions: Sequence[Posed], file: Path, examples: int
) -> None:
    """One HTML file that needs nothing else: the table, and for each kind some right and some wrong answers with their pictures.

    Args:
        measured: The table.
        answers: The answers.
        questions: Their questions, in the same order.
        file: The page.
        examples: Most answers of a kind, half of them right where there are enough; an answer without ``right`` counts as wrong where
            a measure of it is below 1.

    Raises:
        DataError: A picture does not read.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(loader=PackageLoader("vlarig.training.data", "html"), autoescape=select_autoescape())
    pairs = list(zip(answers, questions, strict=True))
    kinds = []
    for kind in dict.fromkeys(each.kind for each in measured):
        own = [pair for pair in pairs if pair[0].kind == kind]
        right, wrong = [[pair for pair in own if _is_right(pair[0]) == wanted] for wanted in (True, False)]
        half = min(len(right), max(examples // 2, examples - len(wrong)))
        chosen = _spread(right, half) + _spread(wrong, examples - half)
        kinds.append({"name": kind, "examples": [_example(*pair) for pair in chosen]})
    first = answers[0]
    html = environment.get_template("scores.html").render(
        model=first.model, blind=first.blind, columns=_COLUMNS, rows=list(map(_cells, measured)), kinds=kinds
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(html, encoding="utf-8")


_COLUMNS = ("kind", "measure", "n", "mean", "95 % interval", "constant")


def _cells(each: Measured) -> tuple[str, ...]:
    interval = "" if each.interval is None else f"{100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}"
    constant = "" if each.constant is None else f"{100 * each.constant:.1f}"
    return each.kind, each.measure, str(each.n), f"{100 * each.mean:.1f}", interval, constant


def _is_right(answer: Answer) -> bool:
    return bool(answer.measures.get("right", min(answer.measures.values()) == 1))


def _spread(some: list[Any], count: int) -> list[Any]:
    """Up to so many, evenly over all."""
    return [some[int(place)] for place in np.linspace(0, len(some) - 1, min(count, len(some)))] if some else []


def _example(answer: Answer, posed: Posed) -> dict[str, Any]:
    seen = posed.dataset[posed.index].conversation.seen()
    images = [item.image if isinstance(item, Picture) else item.frames[0] for item in seen]
    boxes = [(side, each.box, each.label) for side in ("expected", "given") for each in boxes_in(getattr(answer, _SIDES[side]))]
    return {
        "right": _is_right(answer),
        "question": answer.question,
        "expected": answer.expected,
        "given": answer.answer,
        "measures": ", ".join(f"{name} {value:.2f}" for name, value in answer.measures.items()),
        "pictures": [picture_text(image, _HEIGHT) for image in images],
        "boxes": [
            {"side": side, "x": box[0], "y": box[1], "width": box[2] - box[0], "height": box[3] - box[1], "label": label}
            for side, box, label in boxes
            if box[2] >= box[0] and box[3] >= box[1]
        ],
        "name": answer.name,
    }


#: What a box on the page is of, to the field of the answer that it is in.
_SIDES = {"expected": "expected", "given": "answer"}
