"""Samples for tests: steps of made-up demonstrations, each a function of its position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.qwen_vla.conversation import Conversation, Mark, Still, Turn
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, bounds_statistics
from vlarig.training.samples import ActionSample, LanguageSample, Sample, Stream

OBJECTS = ("bowl", "mug", "plate", "book", "pot", "knife", "lamp", "pillow")


@dataclass
class Random(Stream):
    """Two robots with words, images and chunks of several lengths; ``broken`` positions have an image but no finite action."""

    broken: tuple[int, ...] = ()
    views: int = 1
    embodiments: tuple[Embodiment, ...] = (LIBERO_PANDA, WIDOWX_BRIDGE)
    statistics: Mapping[str, DatasetStatistics] = field(
        default_factory=lambda: {
            each.statistics_key: DatasetStatistics(bounds_statistics(each)) for each in (LIBERO_PANDA, WIDOWX_BRIDGE)
        }
    )

    def __getitem__(self, position: int) -> ActionSample:
        rng = np.random.default_rng(position)
        robot = self.embodiments[position % 2]
        steps = (16, 8, 12)[position % 3]
        images = {tag: rng.integers(0, 256, (1, 64, 64, 3), np.uint8) for tag in list(robot.cameras)[: self.views]}
        words = f"pick up the {OBJECTS[position % len(OBJECTS)]}"
        state = np.zeros(len(robot.state_layout), np.float32)
        actions = rng.uniform(-1, 1, (steps, robot.action_size)).astype(np.float32)
        if position in self.broken:
            actions[0, 0] = np.inf
        return ActionSample(f"random/{position}", Observation(images=images, state=state, instruction=words), robot, actions)


@dataclass
class Ten(Random):
    """Ten of its steps, again and again."""

    def __getitem__(self, position: int) -> ActionSample:
        return super().__getitem__(position % 10)


@dataclass
class Mixed(Random):
    """The same with conversations among them: of eight samples one with an image, two without."""

    def __getitem__(self, position: int) -> Sample:
        kind = position % 8
        if kind < 5:
            return super().__getitem__(position)
        rng = np.random.default_rng(position)
        seen = (Still(rng.integers(0, 256, (40 + kind, 70, 3), np.uint8)),) if kind == 5 else ()
        question = Turn("user", (*seen, f"Where is the {OBJECTS[position % 7]}?"))
        answer = Turn("assistant", (f"It is on the {OBJECTS[position % 5]}, {position} of them.",))
        return LanguageSample(f"talk/{position}", Conversation((question, answer)))


@dataclass
class Squares(Random):
    """Conversations alone, on a red or a blue square in one of four places, with its mark."""

    def __getitem__(self, position: int) -> LanguageSample:
        colour = ("red", "blue")[position % 2]
        x, y = position // 2 % 2 * 32 + 16, position // 4 % 2 * 32 + 16
        image = np.full((64, 64, 3), 200, np.uint8)
        image[y - 8 : y + 8, x - 8 : x + 8] = {"red": (220, 30, 30), "blue": (30, 30, 220)}[colour]
        seen = Still(image, marks=(Mark(f"{colour} cube", x / 64, y / 64, "object"),))
        question = Turn("user", (seen, f"Where is the {colour} cube?"))
        return LanguageSample(f"squares/{position}", Conversation((question, Turn("assistant", ("There.",)))))


@dataclass
class EightWords(Random):
    """Eight chunks of one robot, without an image; the prompts differ by the object alone, so only words tell the chunks apart."""

    embodiments: tuple[Embodiment, ...] = (LIBERO_PANDA,)

    def __getitem__(self, position: int) -> ActionSample:
        index = position % len(OBJECTS)
        observation = Observation(images={}, state=np.zeros(8, np.float32), instruction=f"pick up the {OBJECTS[index]}")
        actions = np.random.default_rng(index).uniform(-1, 1, (16, LIBERO_PANDA.action_size)).astype(np.float32)
        return ActionSample(OBJECTS[index], observation, LIBERO_PANDA, actions)
