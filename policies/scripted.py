"""Policies that come with the rig: ``zero``, ``random`` and ``expert``."""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ..envs.api import Needs
from ..envs.embodiments import Embodiment
from ..envs.faults import describe, traceback_of
from .api import Policy, PolicyError, Reply, Request
from .experts.motion import ScriptedExpert
from .registry import find_expert


class ZeroPolicy(Policy):
    """Answers with zeros: a benchmark that it solves is broken."""

    name = "zero"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``n_action_steps`` steps of zeros for each request."""
        return [Reply(np.zeros((request.n_action_steps, request.embodiment.action_size), np.float32)) for request in requests]


class RandomPolicy(Policy):
    """Draws every action uniformly between the channels' bounds, from the request's own seed."""

    name = "random"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``n_action_steps`` random steps for each request."""
        return [Reply(self._draw(request)) for request in requests]

    def _draw(self, request: Request) -> np.ndarray:
        space = request.embodiment.action_space()
        rng = np.random.default_rng(request.seed)
        return rng.uniform(space.low, space.high, (request.n_action_steps, len(space.low))).astype(np.float32)


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
            VlarigError: It has none, several packages have one, or it cannot be made.
        """
        self._expert(suite)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One step for each request."""
        return [self._expert(request.key.partition("/")[0]).reply(request) for request in requests]

    def _expert(self, suite: str) -> ScriptedExpert[Any]:
        if suite not in self._experts:
            found = find_expert(suite)
            what = f"the expert of suite {suite!r}, {found.place} of the package {found.package},"
            try:
                expert = resolve_name(found.place)()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a module that is a program may exit
                sentence = f"{what} cannot be made ({describe(error)}); mend or uninstall it"
                raise PolicyError(sentence, traceback=traceback_of(error)) from error
            if not isinstance(expert, ScriptedExpert):
                raise PolicyError(f"{what} is of type {type(expert).__name__}; expected a subclass of ScriptedExpert")
            self._experts[suite] = expert
        return self._experts[suite]
