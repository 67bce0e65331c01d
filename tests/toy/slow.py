"""The toy simulator, slow where a test makes it slow."""

from __future__ import annotations

import os
import time

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import Camera, Episode, StepResult

#: Environment variable: seconds by what takes them, as in ``step=0.01,view=0.2,reset=1``.
SLOW = "VLARIG_TEST_SLOW"


class SlowEnv(ToyEnv):
    """Sleeps in its hooks."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self._sleep("reset")
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        self._sleep("step")
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
