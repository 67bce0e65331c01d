"""The toy simulator, slow at what a test wants it to be slow at."""

from __future__ import annotations

import os
import time

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import Camera, Episode, Row

#: Environment variable: seconds by what takes them, as in ``row=0.01,view=0.2,start=1``.
SLOW = "VLARIG_TEST_SLOW"


class SlowEnv(ToyEnv):
    """Sleeps on its way."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self._sleep("start")
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> Row:
        self._sleep("row")
        return super().apply(action)

    def state(self) -> np.ndarray:
        self._sleep("state")
        return super().state()

    def render_view(self, camera: Camera) -> np.ndarray:
        self._sleep("view")
        return super().render_view(camera)

    def _sleep(self, what: str) -> None:
        for part in os.environ.get(SLOW, "").split(","):
            name, _, seconds = part.partition("=")
            if name == what:
                time.sleep(float(seconds))
