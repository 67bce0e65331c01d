"""The embedded suite's simulator with a fault: it raises in one episode, beside others in the same process."""

from __future__ import annotations

import numpy as np

from toy.faulty import again, misbehave, planned_fault
from vlarig.envs.api import StepResult
from vlarig.envs.tabletop.env import TabletopEnv


class FragileTabletopEnv(TabletopEnv):
    """Raises in the fifth step of one episode."""

    def apply(self, action: np.ndarray) -> StepResult:
        assert self.episode is not None
        _, place, times = planned_fault()
        if place == f"{self.episode.task}/{self.episode.initial_state}" and self._step == 4 and again(times):
            misbehave()
        return super().apply(action)
