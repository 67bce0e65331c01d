"""Held-out questions put to a model, its answers scored, and the scores as a table: the companion benchmark of section 3.2.5.

Each question becomes a line of a JSONL file, :class:`Answer`. A run that goes on keeps the lines that are there, whole and of the same
model and questions, and answers the rest.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...harness.screen import Screen
from ...policies.qwen_vla.answering import answers
from ...policies.qwen_vla.checkpoint import LoadedPolicy
from ...policies.qwen_vla.conversation import Still, Turn, Video
from ...policies.qwen_vla.inputs import InputBuilder
from ...results.bootstrap import resampled_interval
from ...results.statistics import wilson_interval
from .boxes import boxes_in
from .captions import CaptionDataset
from .decoding import typed
from .errors import DataError
from .questions import Question
from .render_questions import open_questions
from .scoring import caption_pool, normalised, score
from .vision_language import VisionLanguageDataset, turns_of

#: Questions that are handed to the model at once: those of one length in tokens are a batch of their own, here 33 on average.
AT_ONCE = 128

#: Tokens that an answer may have beyond the characters of the longest one expected: an article, a code fence. A model that never ends
#: is cut there.
MARGIN = 16

#: Colour of the image where the model is to see none: middle grey.
GREY = 128

#: Answers several conversations that end with the user's turn, each with at most so many tokens.
Answerer = Callable[[Sequence[Sequence[Turn]], int], Sequence[str]]

_COLUMNS = ("kind", "measure", "n", "mean", "95 % interval", "constant")


@dataclass(frozen=True)
class Posed:
    """A question of a file.

    Attributes:
        dataset: The file, the folder of files, or the recorded episodes.
        index: Its index there.
        name: Names the question: its family, and its id or index.
        images: Names of the images that it shows: a line's paths, or the recorded episode.
        question: The last turn of the user, the assistant's answer to it, and for a caption its facts.
    """

    dataset: VisionLanguageDataset | CaptionDataset
    index: int
    name: str
    images: tuple[str, ...]
    question: Question

    def turns(self, blind: bool = False) -> tuple[Turn, ...]:
        """The conversation without its last answer; a blind model gets grey images."""
        turns = self.dataset[self.index].conversation.turns[:-1]
        return tuple(Turn(turn.role, tuple(map(_painted, turn.content))) for turn in turns) if blind else turns


@dataclass(frozen=True)
class Answer:
    """A question with a model's answer and its measures: a line of the file.

    Attributes:
        model: The model and its weights.
        blind: Whether it saw grey images.
        images: Paths of the images.
        measures: Measure to value, 0 to 1, see :func:`.scoring.score`.
    """

    model: str
    blind: bool
    name: str
    kind: str
    question: str
    images: tuple[str, ...]
    expected: str
    answer: str
    measures: dict[str, float]


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


def read_questions(source: str | Path, limit: int | None = None) -> list[Posed]:
    """The questions of a folder of ``vlarig data render-questions``, of JSONL, or on recorded episodes.

    Args:
        source: The folder; a JSONL file or a folder of such files; or a LeRobotDataset of ``vlarig data record`` with captions.
        limit: Most questions; they are spread evenly over all. A limit of 200 takes the same 200 each time.
    """
    root = Path(source)
    if (root / "meta" / "info.json").exists():
        recorded = CaptionDataset(root)
        found = [
            Posed(recorded, index, recorded.sample_name(index), (recorded.episode_name(index),), recorded.question(index))
            for index in range(len(recorded))
        ]
    else:
        datasets = [VisionLanguageDataset(root)] if root.is_file() or any(root.glob("*.jsonl")) else open_questions(root)
        found = [_posed(dataset, index) for dataset in datasets for index in range(len(dataset))]
    count = len(found) if limit is None else min(limit, len(found))
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, count)]


def answerer(policy: LoadedPolicy) -> Answerer:
    builder = InputBuilder(policy.model.config, policy.tokenizer)
    return lambda conversations, most: answers(policy.model, policy.tokenizer, conversations, builder, most)


def score_questions(
    questions: Sequence[Posed],
    answer: Answerer,
    model: str,
    file: Path,
    blind: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Answer and score the questions that ``file`` lacks; all answers, in the order of the questions.

    Questions of about one length are answered at once, always the same ones: a run that goes on answers as an undisturbed one does.
    ``file`` is JSONL, a line for each answer; a new one, or one of the same ``model`` (its name and that of its weights) and questions.
    With ``blind`` the images are grey. ``progress`` is called with the answers that are there, and all that there will be.
    """
    there = _read(file, {each.name: each for each in questions}, model, blind)
    pool = caption_pool(each.question for each in questions)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        for some in _at_once(questions):
            if all(each.name in there for each in some):
                continue
            most = MARGIN + max(len(each.question.answer) for each in some)
            for each, words in zip(some, answer([one.turns(blind) for one in some], most), strict=True):
                if each.name not in there:
                    asked, measures = each.question, score(each.question, words, pool)
                    there[each.name] = found = Answer(
                        model, blind, each.name, asked.kind, asked.text, each.images, asked.answer, words, measures
                    )
                    lines.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
            lines.flush()
            if progress is not None:
                progress(len(there), len(questions))
    return [there[each.name] for each in questions]


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


def _posed(dataset: VisionLanguageDataset, index: int) -> Posed:
    record = dataset.record(index)
    try:
        turns = turns_of(record)
        words = [(role, [part for part in content if isinstance(part, str)]) for role, content in turns]
        shown = [part.path for _, content in turns for part in content if not isinstance(part, str)]
    except ValueError as error:
        raise DataError(f"{dataset.where(index)} does not read: {error}") from None
    answer = "".join(words[-1][1]).strip() if words and words[-1][0] == "assistant" else ""
    if not answer or len(words) < 2:
        raise DataError(f"{dataset.where(index)} has no question with an answer at its end; a line to score needs both")
    question = Question(record.get("kind") or dataset.family, "".join(words[-2][1]).strip(), answer, record.get("facts") or {})
    name = f"{dataset.family}/{index}/{record['id']}" if "id" in record else f"{dataset.family}/{index}"
    return Posed(dataset, index, name, tuple(map(str, shown)), question)


def _painted(item: str | Still | Video) -> str | Still | Video:
    if isinstance(item, str):
        return item
    if isinstance(item, Still):
        return replace(item, image=np.full_like(item.image, GREY))
    return replace(item, frames=np.full_like(item.frames, GREY))


def _at_once(questions: Sequence[Posed]) -> Iterator[list[Posed]]:
    ordered = sorted(questions, key=lambda each: (each.question.kind, len(each.question.text), each.question.text, each.name))
    for begin in range(0, len(ordered), AT_ONCE):
        yield ordered[begin : begin + AT_ONCE]


def _read(file: Path, posed: dict[str, Posed], model: str, blind: bool) -> dict[str, Answer]:
    """Name to answer of a file; a last line that was cut off is removed from it."""
    if not file.exists():
        return {}
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    found = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            answer = typed(json.loads(line), Answer)
        except ValueError as error:
            raise DataError(f"{file} line {number} is no answer of `vlarig data score` ({error}); name another file") from None
        if (answer.model, answer.blind) != (model, blind):
            seen = "grey images" if answer.blind else "its images"
            raise DataError(
                f"{file} holds answers of the model {answer.model!r} to {seen}, not of {model!r} to "
                f"{'grey images' if blind else 'its images'}; name another file"
            )
        asked = posed[answer.name].question if answer.name in posed else None
        if asked is None or (asked.text, asked.answer) != (answer.question, answer.expected):
            raise DataError(f"{file} holds an answer to another question {answer.name!r}; name another file")
        found[answer.name] = answer
    if len(whole) < len(text):
        with file.open("r+b") as opened:
            opened.truncate(len(whole))
    return found


def _cells(each: Measured) -> tuple[str, ...]:
    interval = "" if each.interval is None else f"{100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}"
    constant = "" if each.constant is None else f"{100 * each.constant:.1f}"
    return each.kind, each.measure, str(each.n), f"{100 * each.mean:.1f}", interval, constant
