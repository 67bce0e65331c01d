"""The scenes of a process: each task is loaded once, for as long as an env plays it and a little longer."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from .scene import Scene
from .upstream import assets_folder

#: Scenes kept although no env plays them. A sweep runs task by task and seldom comes back, and a scene with its renderer takes half a
#: gigabyte where loading it takes two seconds; one more than is played saves the turn of an env that is early.
IDLE_SCENES = 1


@dataclass
class ScenePool:
    """Lends scenes to the envs of a process."""

    _scenes: OrderedDict[tuple[str, str], Scene] = field(default_factory=OrderedDict)
    _players: Counter[tuple[str, str]] = field(default_factory=Counter)

    def borrow(self, suite: str, task: str) -> Scene:
        """The task's scene, loaded if no env has it. Give it back by :meth:`give_back`."""
        key = (suite, task)
        if key not in self._scenes:
            self._scenes[key] = Scene(assets_folder(), suite, task)
        self._scenes.move_to_end(key)
        self._players[key] += 1
        self._close_idle()
        return self._scenes[key]

    def give_back(self, suite: str, task: str) -> None:
        """End a loan."""
        self._players[suite, task] -= 1
        self._close_idle()

    def _close_idle(self) -> None:
        """Free the scenes that were idle for longest."""
        idle = [key for key in self._scenes if not self._players[key]]
        leaving = idle[: max(0, len(idle) - IDLE_SCENES)]
        for key in leaving:
            self._scenes.pop(key).close()
        if leaving:
            gc.collect()  # upstream's objects refer to each other, and hold the model
