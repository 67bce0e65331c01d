"""Quantiles of trajectories, of one dataset or of several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_of

#: Gives the ``actions`` or the ``states`` of each episode, ``[J, A]`` each, each time it is called.
Trajectories = Callable[[str], Iterator[np.ndarray]]


def fit_statistics(trajectories: Sequence[Trajectories], with_state: bool, source: str) -> DatasetStatistics:
    """Quantiles of the actions of all trajectories, and of their states where they have some; memory does not grow with them."""

    def part(name: str) -> Iterator[np.ndarray]:
        return chain.from_iterable(each(name) for each in trajectories)

    state = statistics_of(part("states"), source) if with_state else None
    return DatasetStatistics(statistics_of(part("actions"), source), state)
