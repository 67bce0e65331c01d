"""Cleaning of a LeRobotDataset: every number and every image of it is read once. Episodes that break a rule are left out from then on.

Whether a frame "is there and decodes" is found by decoding it, as training would. Looking at a film's packets alone takes a
twentieth of that time, and finds frames that are missing but none that is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .cleaning import Drop, EpisodeArrays, judge
from .lerobot import LeRobotDataset, open_lerobot
from .stored_cleaning import Cleaning, store_cleaning, thresholds_of

#: Passes on the verdicts as they are found, of which there will be so many.
Watch = Callable[[Iterable["Drop | None"], int], Iterable["Drop | None"]]


class LeRobotEpisodes:
    """The episodes of a dataset, for :func:`~.cleaning.clean`."""

    def __init__(self, dataset: LeRobotDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset.episodes)

    def task_and_steps(self, index: int) -> tuple[str, int]:
        """The task of an episode, or its tasks one after the other, and its steps."""
        return self._dataset.task_and_steps(index)

    def episode(self, index: int) -> EpisodeArrays:
        return self._dataset.arrays(index)


def clean_lerobot(
    folder: Path | str,
    *,
    workers: int = 1,
    watch: Watch = lambda verdicts, _: verdicts,
    thresholds: Mapping[str, Any] | None = None,
    statistics_file: Path | str | None = None,
    **options: Any,
) -> tuple[Cleaning, Path]:
    """Judge all episodes of a dataset and store the verdicts beside it, where ``open_lerobot`` finds them.

    Args:
        folder: The dataset's folder.
        workers: Processes that read.
        watch: Shows progress.
        thresholds: The thresholds of the rules, by the names of :class:`~.cleaning.Thresholds`.
        statistics_file: Not used: quantiles are fitted to what is kept.
        options: The others of ``open_lerobot``.

    Returns:
        What is left out, and the file that says so.
    """
    del statistics_file
    dataset = open_lerobot(folder, cleaned=False, **options)
    limits = thresholds_of(thresholds, dataset.name)
    found = watch(judge(LeRobotEpisodes(dataset), limits, workers), len(dataset.episodes))
    drops = {number: drop for number, drop in zip(dataset.meta.numbers.tolist(), found, strict=True) if drop is not None}
    cleaning = Cleaning(len(dataset.episodes), drops)
    return cleaning, store_cleaning(cleaning, dataset.meta, dataset.layout, limits)
