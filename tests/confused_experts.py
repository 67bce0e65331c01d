"""The expert with a wrong instruction: if it still succeeded, the words would not matter."""

from __future__ import annotations

from collections.abc import Sequence

from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.policies.api import Reply, Request
from vlarig.policies.scripted import ExpertPolicy
from vlarig.results.records import split_key

#: An initial state gets the instruction of the one this many further on, of the same task.
SHIFT = 17


class ShuffledExpert(ExpertPolicy):
    """The expert with another initial state's instruction."""

    name = "shuffled-expert"

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return super().act([self._misled(request) for request in requests])

    def _misled(self, request: Request) -> Request:
        observation = {**request.observation, "instruction": self.instruction(request)}
        return Request(**{**vars(request), "observation": observation})

    def instruction(self, request: Request) -> str:
        _, _, task, _, initial_state, _ = split_key(request.key)
        initial_states = TABLETOP.task(task).initial_states
        return TABLETOP.payload(
            TABLETOP.task(task), initial_states[(initial_state + SHIFT) % len(initial_states)], TABLETOP.protocols[0]
        )["instruction"]


class PermutedExpert(ShuffledExpert):
    """The expert with the right instruction, in which every name is replaced by the next one of its kind in the scene."""

    name = "permuted-expert"

    def instruction(self, request: Request) -> str:
        words = request.observation["instruction"]
        for kind in ("object/", "tray/", "zone/"):
            names = sorted(name.removeprefix(kind) for name in request.privileged if name.startswith(kind))
            for position, name in enumerate(names):
                words = words.replace(f"the {name}", f"the <{names[(position + 1) % len(names)]}>")
        return words.replace("<", "").replace(">", "")
