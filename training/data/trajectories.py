"""Whole trajectories of a LeRobotDataset, each as one sample: what T2A learns (paper, sections 3.1 and 5.2.1).

"Full-sequence prediction supervises the entire trajectory in one forward pass" (section 5.2.1). A sample is the observation before the
first step and all actions of the episode, or of a subtask where the dataset is segmented; its prompt requests just as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.embodiments import Embodiment
from ...policies.qwen_vla.normalization import DatasetStatistics
from ..samples import ActionSample
from .cleaning import CleaningReport
from .dataset import check_index
from .families import Family
from .lerobot import LeRobotDataset, open_lerobot


def open_trajectories(folder: Path | str, **options: Any) -> TrajectoryDataset:
    """The whole trajectories of a LeRobotDataset.

    Options and errors are those of :func:`~.lerobot.open_lerobot` but ``horizon`` and ``every``, which a trajectory has no use for.
    """
    return TrajectoryDataset(open_lerobot(folder, horizon=2**31, every=1, **options))


class TrajectoryDataset:
    """A dataset of whole trajectories.

    Args:
        frames: The dataset that has a sample for each step, with all actions from there to the trajectory's end.
    """

    def __init__(self, frames: LeRobotDataset) -> None:
        self._frames = frames
        self.name = frames.name
        self.family: Family = frames.family
        self.embodiments: tuple[Embodiment, ...] = frames.embodiments
        self.statistics: Mapping[str, DatasetStatistics] = frames.statistics
        self.cleaning: CleaningReport | None = frames.cleaning
        self.hours: float | None = frames.hours

    @cached_property
    def _found(self) -> list[tuple[range, str]]:
        """Of each trajectory the indices of its frames, and its instruction."""
        found: list[tuple[range, str]] = []
        for place, samples in enumerate(self._frames.episodes):
            if self._frames.segmented:
                found += [(samples[each.begin : each.end], each.label) for each in self._frames.segments(place)]
            elif samples:
                found.append((samples, "; ".join(self._frames.instructions[place])))
        return found

    @cached_property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        """The numbers of each task's trajectories."""
        found: dict[str, list[int]] = {}
        for number, (_, task) in enumerate(self._found):
            found.setdefault(task, []).append(number)
        return found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int) -> ActionSample:
        check_index(index, len(self), self.name)
        return replace(self._frames[self._found[index][0].start], horizon=None)

    def length(self, index: int) -> int:
        return len(self._found[index][0])

    def trajectories(self, part: str) -> Iterator[np.ndarray]:
        return self._frames.trajectories(part)
