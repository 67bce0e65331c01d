"""The toy with faults that the contract kit is to find, and with an evaluation loop of its own to be compared with."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from toy.env import ToyEnv
from toy.suite import TOY_SUITE
from vlarig.benchmarks.suite import Footprint
from vlarig.benchmarks.trial import Trial
from vlarig.envs.api import Episode, StepResult
from vlarig.envs.parity import Upstream, Verdict
from vlarig.envs.upstream import Patch


class ToyLoop(Upstream[ToyEnv]):
    """Upstream's loop: ours again, which is enough for a toy."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        self.env = ToyEnv()

    def reset(self, episode: Episode) -> None:
        self.episode = episode
        self.env.begin(episode, np.random.default_rng(episode.seed))

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        step = self.env.apply(action)
        return Verdict(step.reward, step.success_at_end, self.env.metrics())

    def state(self) -> list[np.ndarray]:
        return [self.env.simulator_state()]

    def observation(self) -> dict[str, np.ndarray]:
        views = {camera.view: self.env.render_view(camera) for camera in self.episode.protocol.cameras}
        return {"state": self.env.state(), **views}


class SlowLoop(ToyLoop):
    """It moves a little less."""

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        return super().step(0.999 * action)


class RememberingEnv(ToyEnv):
    """From the third episode of a process on the point begins a little elsewhere."""

    begun = 0

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.begun += 1
        self.position += 1e-9 * (self.begun > 2)
        return instruction


class SharingEnv(ToyEnv):
    """All envs of a process count their steps together, and every hundredth goes wrong."""

    steps = [0]

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.steps[0] = 0
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        self.steps[0] += 1
        return super().apply(action * (self.steps[0] != 20))


class HeavyEnv(ToyEnv):
    """A further env takes 40 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.ballast = np.ones(5_000_000)


class QuittingEnv(ToyEnv):
    """Its simulator ends the process as if all were well."""

    def __init__(self) -> None:
        os._exit(0)


class PatchedEnv(ToyEnv):
    """One of its patches is needed no more."""

    patches = (
        Patch("the wheel", "there is none", needed=lambda: True),
        Patch("the umbrella", "it rains", needed=lambda: False),
        Patch("the lamp", "it is dark", needed=lambda: bool(1 / 0)),
    )


GOOD = replace(TOY_SUITE, name="good", trial=Trial(upstream="toy.promising:ToyLoop"))
SLOW = replace(TOY_SUITE, name="slow_loop", trial=Trial(upstream="toy.promising:SlowLoop"))
REMEMBERING = replace(TOY_SUITE, name="remembering", adapter="toy.promising:RememberingEnv")
SHARING = replace(TOY_SUITE, name="sharing", adapter="toy.promising:SharingEnv")
HEAVY = replace(TOY_SUITE, name="heavy", adapter="toy.promising:HeavyEnv", footprint=Footprint(process=100, env=1))
PATCHED = replace(TOY_SUITE, name="patched", adapter="toy.promising:PatchedEnv")
QUITTING = replace(TOY_SUITE, name="quitting", adapter="toy.promising:QuittingEnv")
