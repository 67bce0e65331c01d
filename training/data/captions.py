"""Questions on recorded demonstrations: what the robot does, step by step, and what comes next (paper, section 3.2.5).

The answers are the segments that ``vlarig data record`` puts into words (:mod:`vlarig.benchmarks.captions`). An episode of ``n``
segments gives one question on its whole film, ``n`` on a segment's, and ``n - 1`` on the image at the end of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...benchmarks.captions import DIMENSIONS, Description, Segment
from ...policies.qwen_vla.conversation import Conversation, Still, Turn, Video
from ..samples import LanguageSample
from .dataset import NothingActs, check_index
from .errors import DataError
from .families import Family
from .lerobot import open_lerobot
from .lerobot_writer import IMAGES
from .questions import Question
from .scoring import named

#: Kind of question to its wordings.
WORDS = {
    "steps": (
        "Describe step by step, in detail, what the robot does.",
        "What does the robot do? List its steps.",
        "Write a detailed caption of each step of this episode.",
    ),
    "segment": (
        "What does the robot do here? Describe it in detail.",
        "Describe this motion: what is moved, from where, to where, and how.",
        "Write a detailed caption of this step.",
    ),
    "next": ("What does the robot do next?", "Which step comes next?", "What happens next?"),
}


class _Place(NamedTuple):
    """A question's kind, its episode, and its segment where it is about one."""

    kind: str
    episode: int
    segment: int = 0


class CaptionDataset(NothingActs):
    """Conversations about the episodes of a recorded LeRobotDataset.

    Args:
        folder: The dataset's folder.
        name: Names it in errors and pages; its folder's name when ``None``.
        view: The view that is shown.
        frames: Frames of a film, spread over the episode or the segment.
        seed: Another seed chooses other wordings.
        thresholds: Those that the dataset was cleaned with, where they are not the defaults.
    """

    family: Family = "action_caption"

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        view: str = "ego",
        frames: int = 8,
        seed: int = 0,
        thresholds: Mapping[str, Any] | None = None,
    ) -> None:
        if frames < 1:
            raise DataError(f"the captions of {folder} are to show {frames} frames; expected 1 or more")
        self.name = name or f"{Path(folder).resolve().name}/captions"
        self._recorded = open_lerobot(folder, horizon=1, cameras={f"{IMAGES}{view}": view}, thresholds=thresholds)
        self._view, self._frames, self._seed = view, frames, seed
        self._places = [
            place
            for episode, description in enumerate(self._recorded.descriptions)
            if description is not None
            for place in _places(episode, len(description.segments))
        ]
        if not self._places:
            raise DataError(
                f"{folder} describes none of its episodes; record a suite that has a describer, with its expert: vlarig data record "
                "tabletop --policy expert"
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> LanguageSample:
        question = self.question(index)
        content = (self._shown(self._places[index]), question.text)
        turns = Turn("user", content), Turn("assistant", (question.answer,))
        return LanguageSample(self.sample_name(index), Conversation(turns))

    def question(self, index: int) -> Question:
        """The question of that index, without what it is about."""
        check_index(index, len(self), self.name)
        kind, episode, number = self._places[index]
        rng = np.random.default_rng([self._seed, index])
        text = WORDS[kind][int(rng.integers(len(WORDS[kind])))]
        description = self._description(episode)
        if kind == "steps":
            return Question(kind, text, description.caption, facts_of(description.segments))
        if kind == "segment":
            segment = description.segments[number]
            return Question(kind, text, segment.words, facts_of([segment]))
        following = description.segments[number + 1].label
        task = self._recorded.instructions[episode][0]
        return Question(
            kind, f"The task is: {task}. {text}", f"{following[:1].upper()}{following[1:]}.", {"action sequence": [following]}
        )

    def sample_name(self, index: int) -> str:
        """Names the question of that index: ``demos/captions/3/segment/2``."""
        kind, _, number = self._places[index]
        return f"{self.episode_name(index)}/{kind}" + ("" if kind == "steps" else f"/{number + 1}")

    def episode_name(self, index: int) -> str:
        """Names the episode that the question is about: ``demos/captions/3``."""
        return f"{self.name}/{self._places[index].episode}"

    def _description(self, episode: int) -> Description:
        description = self._recorded.descriptions[episode]
        assert description is not None
        return description

    def _shown(self, place: _Place) -> Still | Video:
        samples = self._recorded.episodes[place.episode]
        segments = self._description(place.episode).segments
        if place.kind == "next":
            return Still(self._image(samples[segments[place.segment + 1].begin]), view=self._view)
        begin, end = 0, len(samples)
        if place.kind == "segment":
            begin, end = segments[place.segment].begin, segments[place.segment].end
        steps = np.unique(np.linspace(begin, end - 1, self._frames).round().astype(int))
        seconds = tuple(float(step - begin) / self._recorded.fps for step in steps)
        return Video(np.stack([self._image(samples[step]) for step in steps]), seconds)

    def _image(self, sample: int) -> np.ndarray:
        """``uint8[h, w, 3]``."""
        return self._recorded[sample].observation["images"][self._view][-1]


def facts_of(segments: Sequence[Segment]) -> dict[str, list[str]]:
    """The facts that captions of segments must name: in each dimension, between commas, those that the reference itself names.

    A segment's words do not say all that is known of it. A caption need not name what they leave out (the actor, the base that keeps
    still).
    """
    facts: dict[str, list[str]] = {}
    for name in DIMENSIONS:
        parts = [(each, part) for each in segments for part in each.dimensions.get(name, "").split(", ")]
        said = dict.fromkeys(part for each, part in parts if named(each.words, [part]))
        if said:
            facts[name] = list(said)
    return facts


def _places(episode: int, segments: int) -> list[_Place]:
    of_segments = [_Place("segment", episode, number) for number in range(segments)]
    return [_Place("steps", episode), *of_segments, *(_Place("next", episode, number) for number in range(segments - 1))]
