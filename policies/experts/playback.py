"""Experts that follow what upstream's planner planned, what was recorded, or the waypoints that the simulator gives.

A plan is the privileged entry :data:`PLAN` at an episode's start, ``float32[steps, A]``; an expert with a recording takes the episode's
from there. VLN-CE's experts ask the simulator anew for the next waypoints, from wherever the agent is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...envs.api import Needs
from ..api import Policy, PolicyError, Reply, Request
from .motion import EpisodeState, ScriptedExpert

#: Name of the privileged entry that holds a plan.
PLAN = "plan"


class PlaybackExpert(ScriptedExpert[None]):
    """Plays a plan back, then stays where it ended.

    A subclass may name a recording: a file of ``numpy.savez``, from an episode's key, with ``|`` for ``/``, to its steps.
    """

    recording: ClassVar[Path | None] = None

    def _see(self, request: Request) -> None:
        """Nothing: it is an open loop."""

    def _script(self, request: Request, state: EpisodeState[None]) -> Iterator[np.ndarray]:
        plan = self._plan(request)
        moves = np.array([channel.kind == "delta" for channel in request.embodiment.channels])
        return chain(plan, repeat(np.where(moves, 0.0, plan[-1])))

    def _plan(self, request: Request) -> np.ndarray:
        """The steps of an episode, ``float[steps, A]``."""
        if self.recording is None:
            plan = request.privileged.get(PLAN)
            missing = f"the adapter gave no {PLAN!r}; it has {', '.join(request.privileged) or 'no privileged entries'}"
        else:
            with np.load(self.recording) as recorded:
                plan = recorded.get(request.key.replace("/", "|"))
            missing = f"{self.recording.name} holds no such episode"
        if plan is None:
            raise PolicyError(f"{request.key}: nothing to play back: {missing}")
        size = request.embodiment.action_size
        if plan.ndim != 2 or not len(plan) or plan.shape[1] != size:
            raise PolicyError(
                f"{request.key}: what is to be played back has shape {list(plan.shape)}; expected [steps, {size}]"
            )
        return plan


#: Ways to follow, by name, to the privileged entry that has their waypoints.
WAYS = {"shortest": "waypoints", "reference": "reference_waypoints"}


class ShortestPathFollower(ScriptedExpert[np.ndarray]):
    """Follows the shortest way, a step or turn at a time."""

    def _see(self, request: Request) -> np.ndarray:
        return request.privileged["waypoints"]

    def _script(self, request: Request, state: EpisodeState[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            yield state.scene[0]


class WaypointOracle(Policy):
    """Answers with a chunk of the waypoints that the simulator gives, as a policy does that predicts eight of them.

    Args:
        way: ``shortest``, or ``reference``: through the points that the instruction leads through, for demonstrations of it (RxR's ways
            are not the shortest).
    """

    name = "waypoint-oracle"
    revision = "1"
    needs = Needs(images=False, privileged=True)
    horizon = 8
    stateful = False

    def __init__(self, way: str = "shortest") -> None:
        if way not in WAYS:
            raise PolicyError(f"way is {way!r}, expected one of {', '.join(WAYS)}")
        self._entry = WAYS[way]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The next waypoints of each, ``float32[8, 3]``."""
        return [Reply(request.privileged.get(self._entry, request.privileged["waypoints"])) for request in requests]
