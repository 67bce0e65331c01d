"""The toy simulator that carries out a row only once every other process is at the same row."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import Row

#: Environment variable: folder in which they leave word, and how many have to, as ``folder:count``.
MEETING = "VLARIG_TEST_MEETING"
#: How long a process waits for the others before it gives up.
PATIENCE_SECONDS = 20.0


class MeetingEnv(ToyEnv):
    """Raises where the others do not come."""

    rows = 0

    def apply(self, action: np.ndarray) -> Row:
        folder, count = os.environ[MEETING].rsplit(":", 1)
        row = Path(folder, str(self.rows))
        row.mkdir(exist_ok=True)
        (row / str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(row.iterdir())) < int(count):
            if time.monotonic() > deadline:
                raise RuntimeError("nobody came")
            time.sleep(0.01)
        self.rows += 1
        return super().apply(action)
