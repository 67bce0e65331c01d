"""Warm scenes of a process: each task is loaded once, for as long as an env plays it and a little longer."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any, Callable, Generic, TypeVar

from .generators import generators, using_generators

SceneType = TypeVar("SceneType")

#: Scenes kept although no env plays them. A sweep runs task by task and seldom comes back, and a scene with its renderer may take half
#: a gigabyte where loading it takes two seconds; one more than is played saves the turn of an env that is early.
IDLE_SCENES = 1


class ScenePool(Generic[SceneType]):
    """Lends scenes to the envs of a process.

    Args:
        load: Loads the scene of a key; it has a method ``close``. What it samples from process-wide generators is put back:
            whether a load is needed depends on what ran before.
    """

    def __init__(self, load: Callable[..., SceneType]) -> None:
        self._load = load
        self._scenes: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()
        self._players: Counter[tuple[Hashable, ...]] = Counter()

    def borrow(self, *key: Hashable) -> SceneType:
        """The scene of a key, loaded if no env has it. Give it back by :meth:`give_back`."""
        if key not in self._scenes:
            with using_generators(generators()):
                self._scenes[key] = self._load(*key)
        self._scenes.move_to_end(key)
        self._players[key] += 1
        self._close_idle()
        return self._scenes[key]

    def give_back(self, *key: Hashable) -> None:
        self._players[key] -= 1
        self._close_idle()

    def _close_idle(self) -> None:
        """Free the scenes that were idle for longest."""
        idle = [key for key in self._scenes if not self._players[key]]
        leaving = idle[: max(0, len(idle) - IDLE_SCENES)]
        for key in leaving:
            self._scenes.pop(key).close()
        if leaving:
            gc.collect()  # upstream's objects refer to each other, and hold the model
