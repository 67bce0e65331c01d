"""A sweep as the scripts measure it: from the time at which every env has an episode, by the policy's own clock."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlarig.envs.api import Needs
from vlarig.harness import evaluate
from vlarig.policies.api import Policy, Reply, Request


class InstantPolicy(Policy):
    """Reads images and answers at once: sixteen small random actions, sampled beforehand."""

    name = "instant"
    revision = "1"
    needs = Needs()
    horizon = 16

    def __init__(self) -> None:
        self.actions = np.random.default_rng(0).normal(0.0, 0.1, (16, 7)).astype(np.float32)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self.actions.copy()) for _ in requests]


class ClockedPolicy(InstantPolicy):
    """Records of each request the seconds by the clock and of the process's CPU, the episode's key and the chunk's index."""

    def __init__(self) -> None:
        super().__init__()
        self.requested: list[tuple[float, float, str, int]] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.requested += [(wall, cpu, request.key, request.chunk) for request in requests]
        return super().act(requests)


@dataclass(frozen=True)
class Cost:
    """What a sweep took.

    Attributes:
        cpu: Milliseconds of the driver's CPU a chunk, all threads.
        steps: Control steps a second, as long as there is an episode for every env.
        steps_to_the_end: The same until the last chunk: at the end of a sweep envs run dry one after the other.
    """

    cpu: float
    steps: float
    steps_to_the_end: float


def measure(suite: str, episodes: int, workers: int, envs: int) -> Cost:
    """Sweep so many episodes of each task of a suite into a fresh ledger, with ``envs`` under way in each of the workers."""
    policy, together = ClockedPolicy(), workers * envs
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = evaluate(
            suite, policy, episodes=episodes, workers=workers, num_envs=workers * envs, batch=min(64, together), run=run
        )
        if not done.complete:
            raise RuntimeError(f"the sweep of {suite!r} gave {done.errors} episodes up")
        steps_of = {record.key: record.chunks for record in done.records()}
    begun = [number for number, (_, _, _, chunk) in enumerate(policy.requested) if chunk == 0]
    requested, dry = policy.requested[begun[together - 1] :], begun[-1] - begun[together - 1]
    steps = np.cumsum([steps_of[key][chunk] for _, _, key, chunk in requested])
    walls, cpus = (np.array([each[clock] for each in requested]) - requested[0][clock] for clock in (0, 1))
    return Cost(cpus[dry] / dry * 1e3, steps[dry - 1] / walls[dry], steps[-1] / walls[-1])
