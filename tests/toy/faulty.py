"""The toy simulator with faults of real ones: it crashes, hangs, raises, or draws from generators that it does not own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import Episode, Row

#: Environment variable: the fault, as ``kind:task/start:times``; ``times`` faults happen, then no more.
FAULT = "VLARIG_TEST_FAULT"
#: Environment variable: folder in which the faults that happened are counted.
COUNTS = "VLARIG_TEST_COUNTS"
#: Row of the episode in which the fault happens.
FAULTY_ROW = 12


class FaultyEnv(ToyEnv):
    """Misbehaves in one episode."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.row = 0
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> Row:
        assert self.episode is not None
        kind, place, times = os.environ[FAULT].split(":")
        self.row += 1
        if place == f"{self.episode.task}/{self.episode.start}" and self.row == FAULTY_ROW and self._again(int(times)):
            if kind == "crash":
                os.abort()
            if kind == "hang":
                time.sleep(3600)
            raise RuntimeError("the physics exploded")
        return super().apply(action)

    def _again(self, times: int) -> bool:
        happened = len(list(Path(os.environ[COUNTS]).iterdir()))
        if happened < times:
            (Path(os.environ[COUNTS]) / str(happened)).touch()
        return happened < times


class DriftingEnv(ToyEnv):
    """Each process plays it a little differently, and dies when it is told to."""

    def apply(self, action: np.ndarray) -> Row:
        die = Path(os.environ[COUNTS], "die")
        if die.exists():
            die.unlink()
            os.abort()
        self.position = self.position + 1e-9 * os.getpid()
        return super().apply(action)


class LeakyEnv(ToyEnv):
    """Begins a little further on each time."""

    begun = 0

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.begun += 1
        self.position = self.position * 0.99**self.begun
        return instruction
