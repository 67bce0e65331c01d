"""Datasets for tests: made-up demonstrations and conversations, some of whose samples may be broken."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.qwen_vla.conversation import Conversation, Turn
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, bounds_statistics
from vlarig.training.data.cleaning import CleaningReport
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.errors import DataError
from vlarig.training.data.families import Family
from vlarig.training.samples import ActionSample, LanguageSample, Sample


@dataclass
class Motions:
    """Demonstrations of one robot: two tasks, the second with a third of the samples."""

    name: str
    family: Family = "robot_manipulation"
    robot: Embodiment = LIBERO_PANDA
    count: int = 30
    broken: tuple[int, ...] = ()
    hours: float | None = 0.5
    cleaning: CleaningReport | None = None

    def __post_init__(self) -> None:
        self.embodiments = (self.robot,)
        self.statistics = {self.robot.statistics_key: DatasetStatistics(bounds_statistics(self.robot))}
        split = self.count * 2 // 3
        self.tasks = {"lift": range(split), "push": range(split, self.count)}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"{self.name}/{index}: the video ends before its frame; copy it again")
        rng = np.random.default_rng([7, index])
        images = {"ego": rng.integers(0, 256, (1, 32, 32, 3), np.uint8)}
        words = "lift it" if index in self.tasks["lift"] else "push it"
        state = np.zeros(len(self.robot.state_layout), np.float32)
        actions = rng.uniform(-1, 1, (16, self.robot.action_size)).astype(np.float32)
        return ActionSample(
            f"{self.name}/{index}", Observation(images=images, state=state, instruction=words), self.robot, actions
        )


@dataclass
class Talk:
    """Conversations without images."""

    name: str = "talk"
    family: Family = "general_vision_language"
    count: int = 12

    def __post_init__(self) -> None:
        self.embodiments: tuple[Embodiment, ...] = ()
        self.statistics: dict[str, DatasetStatistics] = {}
        self.tasks = {"talk": range(self.count)}
        self.hours = None
        self.cleaning: CleaningReport | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return LanguageSample(
            f"{self.name}/{index}", Conversation((Turn("user", (f"What is {index}?",)), Turn("assistant", (f"{index}.",))))
        )


def three() -> list[Dataset]:
    """Two robots and conversations."""
    return [Motions("libero"), Motions("bridge", robot=WIDOWX_BRIDGE, count=60), Talk()]


def broken(**options: object) -> Motions:
    """A dataset of the file's own options."""
    return dataclasses.replace(Motions("broken", broken=(3, 5)), **options)  # type: ignore[arg-type]
