"""A dataset: finite, read in any order. The mixture makes an endless stream of one or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol, runtime_checkable

import numpy as np

from ...envs.embodiments import Embodiment
from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_of
from ..samples import Sample
from .cleaning import CleaningReport
from .families import Family

#: Gives the ``actions`` or the ``states`` of each episode, ``[J, A]`` each, each time it is called.
Trajectories = Callable[[str], Iterator[np.ndarray]]


class Dataset(Protocol):
    """Samples by index. It is pickled where batches are made in processes of their own."""

    @property
    def name(self) -> str:
        """Names it in errors and pages: ``bridge``, ``synthetic/pick_place/ur5e``."""
        ...

    @property
    def family(self) -> Family:
        """Its family of the mixture."""
        ...

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """The robots of its samples; none for vision-language data."""
        ...

    @property
    def statistics(self) -> Mapping[str, DatasetStatistics]:
        """Quantiles by the embodiments' ``statistics_key``, which are stored with the data."""
        ...

    @property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        """The indices of each task's samples, by which tasks are balanced."""
        ...

    @property
    def hours(self) -> float | None:
        """Hours of motion; ``None`` where nothing moves."""
        ...

    @property
    def cleaning(self) -> CleaningReport | None:
        """What was left out before training, and why; ``None`` where no rule looked."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample of that index, the same whenever it is read.

        Raises:
            IndexError: There is none.
        """
        ...


def check_index(index: int, count: int, name: str) -> None:
    """Make sure that a dataset of so many samples has one of that index.

    Raises:
        IndexError: There is none.
    """
    if not 0 <= index < count:
        raise IndexError(f"{name} has {count} samples, expected an index from 0, got {index}")


def spread(dataset: Dataset, samples: int) -> list[int]:
    """Indices spread evenly over a dataset, at most so many."""
    count = min(samples, len(dataset))
    return [round(place) for place in np.linspace(0, len(dataset) - 1, count)] if count else []


class NothingActs:
    """What the datasets of vision-language data have in common; all of one is one task, and ``__len__`` is theirs."""

    embodiments: tuple[Embodiment, ...] = ()
    statistics: Mapping[str, DatasetStatistics] = {}
    hours: float | None = None
    cleaning: CleaningReport | None = None
    name: str

    @property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        return {self.name: range(len(self))}  # type: ignore[arg-type]


@runtime_checkable
class HasLengths(Protocol):
    """A dataset whose samples differ much in length, which it knows without making them."""

    def length(self, index: int) -> int:
        """About how long a sample is: tokens of a conversation, steps of a chunk. It does not raise for a sample that does not read."""
        ...


@runtime_checkable
class HasTrajectories(Protocol):
    """A dataset whose numbers can be read without its images, so that quantiles can be fitted to several together."""

    def trajectories(self, part: str) -> Iterator[np.ndarray]:
        """The ``actions`` or the ``states`` of each episode, ``[J, A]`` each, in order."""
        ...


def fit_statistics(trajectories: Sequence[Trajectories], with_state: bool, source: str) -> DatasetStatistics:
    """Quantiles of the actions of all trajectories, and of their states where they have some; memory does not grow with them."""

    def part(name: str) -> Iterator[np.ndarray]:
        return chain.from_iterable(each(name) for each in trajectories)

    state = statistics_of(part("states"), source) if with_state else None
    return DatasetStatistics(statistics_of(part("actions"), source), state)
