"""What the engine measures, chunk by chunk, and what takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..envs.api import ChunkResult, Episode, Observation
from ..policies.api import Reply, Request
from ..results.records import Attempt


@dataclass(frozen=True)
class Transition:
    """One chunk of one episode.

    Attributes:
        episode: The episode.
        request: The request to the policy, with the observation before the chunk.
        reply: The policy's reply.
        actions: The steps sent to the simulator: the first ``n_action_steps`` of the reply's, or what :mod:`.execution` makes of
            them and of earlier replies. The simulator has run as many of them as there are in ``result.steps``.
        result: The result of the chunk.
        policy_version: The policy's version when it answered.
        observation: The observation after the chunk; at an episode's end the final one.
        next_first: The first observation of the env's next episode where this chunk ended one and the env goes on.
        seconds: Where the wall time went: ``simulate``, ``render``, ``policy``, ``wait``. An episode's first chunk has its reset's too.
        worker: Name of the worker that ran it.
    """

    episode: Episode
    request: Request
    reply: Reply
    actions: np.ndarray
    result: ChunkResult
    policy_version: int
    observation: Observation
    next_first: Observation | None
    seconds: dict[str, float]
    worker: str

    @property
    def following(self) -> Request:
        """The request at the observation after the chunk, for :meth:`~vlarig.policies.api.Policy.value`; never made by the engine."""
        return replace(self.request, chunk=self.request.chunk + 1, observation=self.observation)

    @property
    def success(self) -> bool | None:
        """Success of the episode by its protocol's own rule; ``None`` where it is too early for a result."""
        protocol = self.episode.protocol
        return self.result.snapshot.outcome.under(protocol.success_rule, protocol.hold_steps)


class Sink(Protocol):
    """Takes what the engine measures."""

    async def emit(self, transition: Transition) -> None:
        """Take one transition; those of an episode come in order.

        In rollouts an episode's last one comes when the env's next episode has begun.
        """
        ...

    async def fault(self, attempt: Attempt) -> None:
        """Take a failed attempt."""
        ...
