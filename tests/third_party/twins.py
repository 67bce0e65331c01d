"""Policies in process that do what a third party's server does, to compare a sweep through its client with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from third_party.seen import actions_seen

from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply, Request


class SeenTwin(Policy):
    """What ``vla_eval_server.py`` answers: whole chunks, or one step at a time of chunks that it keeps."""

    name = "vla-eval-twin"
    needs = Needs()

    def __init__(self, steps: int, keeps: bool) -> None:
        self.revision = "1"
        self._steps, self._keeps = steps, keeps
        self.horizon: int | None = 1 if keeps else steps
        self._kept: dict[int, np.ndarray] = {}

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self._act(request)) for request in requests]

    def _act(self, request: Request) -> np.ndarray:
        step = request.chunk % self._steps if self._keeps else 0
        if step == 0:
            seen = request.observation
            images = {"agentview": seen["images"]["ego"][-1], "wrist": seen["images"]["cam_left_wrist"][-1]}
            self._kept[request.env] = actions_seen(
                images, seen["state"], seen["instruction"], (self._steps, request.embodiment.action_size)
            )
        chunk = self._kept[request.env]
        return chunk[step : step + 1] if self._keeps else chunk
