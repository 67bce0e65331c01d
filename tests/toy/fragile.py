"""The embedded suite's simulator with a fault: it raises in one episode, beside others in the same process."""

from __future__ import annotations

import numpy as np

from toy.faulty import again, misbehave, told
from vlarig.envs.api import Row
from vlarig.envs.tabletop.env import TabletopEnv


class FragileTabletopEnv(TabletopEnv):
    """Raises in the fifth row of one episode."""

    def apply(self, action: np.ndarray) -> Row:
        assert self.episode is not None
        _, place, times = told()
        if place == f"{self.episode.task}/{self.episode.start}" and self._step == 4 and again(times):
            misbehave()
        return super().apply(action)
