"""The toy simulator that carries out a step only once every other process is at the same step."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import StepResult

#: Environment variable: folder in which processes leave a file, and how many have to, as ``folder:count``.
MEETING = "VLARIG_TEST_MEETING"
#: How long a process waits for the others before it gives up.
PATIENCE_SECONDS = 20.0


class MeetingEnv(ToyEnv):
    """Raises where the others do not come."""

    steps = 0

    def apply(self, action: np.ndarray) -> StepResult:
        folder, count = os.environ[MEETING].rsplit(":", 1)
        step = Path(folder, str(self.steps))
        step.mkdir(exist_ok=True)
        (step / str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(step.iterdir())) < int(count):
            if time.monotonic() > deadline:
                raise RuntimeError("no other process came")
            time.sleep(0.01)
        self.steps += 1
        return super().apply(action)
