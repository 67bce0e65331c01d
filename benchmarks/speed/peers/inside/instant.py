"""The instant policy for a sweep: ``vlarig sweep ... --policy instant:InstantPolicy``."""

from __future__ import annotations

from collections.abc import Sequence

from chunks import STEPS, instant_steps, note

from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply, Request


class InstantPolicy(Policy):
    """Is shown both images and answers at once."""

    name = "instant"
    revision = "1"
    needs = Needs()
    horizon = STEPS

    def __init__(self) -> None:
        self._steps = instant_steps()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        for request in requests:
            if request.chunk == 0:
                note("begin")
            note("chunk")
        return [Reply(self._steps.copy()) for _ in requests]
