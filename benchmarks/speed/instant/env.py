"""An env that costs nothing to simulate and shows two images."""

from __future__ import annotations

import numpy as np

from vlarig.envs.api import Camera, Env, Episode, StepResult
from vlarig.envs.tabletop.robot import TABLETOP_PANDA


class InstantEnv(Env):
    """Counts its steps; its images are noise, drawn once."""

    embodiment = TABLETOP_PANDA

    def __init__(self) -> None:
        super().__init__()
        self._noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Start counting."""
        self._steps = 0
        return "do nothing"

    def apply(self, action: np.ndarray) -> StepResult:
        """Count."""
        self._steps += 1
        return StepResult(reward=0.0, success_within=False, success_at_end=False)

    def state(self) -> np.ndarray:
        """Eight zeros."""
        return np.zeros(8, dtype=np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        """The noise."""
        return self._noise

    def simulator_state(self) -> np.ndarray:
        """The count."""
        return np.array([self._steps], dtype=np.float64)
