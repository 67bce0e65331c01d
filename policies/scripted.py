"""Policies that come with the rig: ``zero``, ``random`` and ``expert``."""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ..envs.api import Needs
from ..envs.embodiments import Embodiment
from ..envs.plugins import expert_places
from .api import Policy, PolicyError, Reply, Request
from .experts.motion import ScriptedExpert


class ZeroPolicy(Policy):
    """Answers with zeros: a benchmark that it solves is broken."""

    name = "zero"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``execute`` rows of zeros for each request."""
        return [Reply(np.zeros((request.execute, request.embodiment.action_size), np.float32)) for request in requests]


class RandomPolicy(Policy):
    """Draws every action uniformly between the channels' bounds, from the request's own seed."""

    name = "random"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``execute`` random rows for each request."""
        return [Reply(self._draw(request)) for request in requests]

    def _draw(self, request: Request) -> np.ndarray:
        space = request.embodiment.action_space()
        rng = np.random.default_rng(request.seed)
        return rng.uniform(space.low, space.high, (request.execute, len(space.low))).astype(np.float32)


class ExpertPolicy(Policy):
    """Solves the suites that have a scripted expert, by privileged state; it moves the robot by actions alone."""

    name = "expert"
    revision = "1"
    needs = Needs(images=False, privileged=True)
    horizon = 1

    def __init__(self) -> None:
        self._experts: dict[str, ScriptedExpert[Any]] = {}

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the suite has an expert.

        Raises:
            PolicyError: It has none.
        """
        places = expert_places()
        if suite not in places:
            raise PolicyError(f"suite {suite!r} has no scripted expert; suites with one: {', '.join(sorted(places))}")

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One row for each request."""
        return [Reply(self._expert(request.key.partition("/")[0]).act_one(request)) for request in requests]

    def _expert(self, suite: str) -> ScriptedExpert[Any]:
        if suite not in self._experts:
            self._experts[suite] = resolve_name(expert_places()[suite])()
        return self._experts[suite]
