"""VLN-CE's experts. Both ask the simulator anew for the next waypoints, from wherever the agent is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...envs.api import Needs
from ..api import Policy, PolicyError, Reply, Request
from .motion import EpisodeState, ScriptedExpert

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
