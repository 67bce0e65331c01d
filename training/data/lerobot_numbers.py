"""The numbers of a LeRobotDataset's episodes, and those that a process keeps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Bytes of episodes' numbers that a process keeps.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class EpisodeNumbers:
    """The numbers of an episode.

    Attributes:
        states: ``float32[J, P]``.
        actions: ``float32[J, A]``.
        seconds: ``float64[J]``, the frames' times from the episode's beginning.
        tasks: ``int64[J]``, the frames' tasks.
        films: Name of an image to its film, and the second at which the episode begins there.
        images: Name of an image that is no film to its ``J`` files' bytes.
        keypoints: ``float32[J, 14]``; ``None`` where the dataset has none.
    """

    states: np.ndarray
    actions: np.ndarray
    seconds: np.ndarray
    tasks: np.ndarray
    films: Mapping[str, tuple[str, float]]
    images: Mapping[str, Sequence[bytes]]
    keypoints: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = (self.states, self.actions, self.seconds, self.tasks, self.keypoints)
        return sum(each.nbytes for each in arrays if each is not None) + sum(
            len(file) for files in self.images.values() for file in files
        )


class KeptNumbers:
    """Episodes' numbers that a process has read, the latest of them. It is pickled empty; threads wait for each other."""

    def __init__(self) -> None:
        self._episodes: OrderedDict[int, EpisodeNumbers] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        KeptNumbers.__init__(self)

    def get(self, place: int) -> EpisodeNumbers | None:
        with self._turn:
            numbers = self._episodes.get(place)
            if numbers is not None:
                self._episodes.move_to_end(place)
            return numbers

    def keep(self, place: int, numbers: EpisodeNumbers) -> EpisodeNumbers:
        with self._turn:
            if place not in self._episodes:
                self._episodes[place] = numbers
                self._bytes += numbers.size
            while self._bytes > KEPT_BYTES and len(self._episodes) > 1:
                self._bytes -= self._episodes.popitem(last=False)[1].size
            return numbers
