"""A scripted expert: it proves that the tasks can be done, and makes demonstrations."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from vlarig.policies.api import Request
from vlarig.policies.experts import EpisodeState, ScriptedExpert

#: What the expert sees in a step: ``finger``, ``float64[3]``, and pucks and goals by their colours, ``float64[2]``.
SceneState = dict[str, np.ndarray]

#: What an action of 1 moves the finger by (``world.py``, ``REACH``), and how near to a place is there. All lengths are in m.
REACH, NEAR = 0.02, 0.004
#: Heights of the finger's tip above the pucks, and beside them.
HIGH, LOW = 0.06, 0.008
#: A push begins this far behind the puck's centre, goes this far in a step, and ends this near to the goal's centre. A puck that is as
#: near to it as the last number is not pushed.
BEHIND, PUSH, DONE, GOOD = 0.065, 0.011, 0.006, 0.015


class GantryExpert(ScriptedExpert[SceneState]):
    """Pushes one puck after the other as the instruction says, from behind and in a straight line."""

    def _see(self, request: Request) -> SceneState:
        """The truth, and the finger."""
        return {"finger": request.observation["state"].astype(np.float64), **request.privileged}

    def _script(self, request: Request, state: EpisodeState[SceneState]) -> Iterator[np.ndarray]:
        """An action for each control step, without end; a puck that slipped off its goal is pushed again."""
        pairs = re.findall(r"(\w+) puck onto the (\w+) goal", request.observation["instruction"])
        while True:
            for puck, goal in pairs:
                yield from self._push(state, puck, goal)
            yield np.zeros(3)

    def _push(self, state: EpisodeState[SceneState], puck: str, goal: str) -> Iterator[np.ndarray]:
        """Go behind the puck, come down, push it onto its goal, and rise clear of it."""

        def way() -> np.ndarray:
            return state.scene[goal] - state.scene[puck]

        if np.linalg.norm(way()) < GOOD:
            return
        behind = state.scene[puck] - BEHIND * way() / np.linalg.norm(way())
        yield from self._go(state, [*behind, HIGH])
        yield from self._go(state, [*behind, LOW])
        ahead = np.zeros(2)
        while np.linalg.norm(way()) > DONE:
            ahead = way() / np.linalg.norm(way())
            offset = state.scene["finger"][:2] - state.scene[puck]
            beside = offset - offset @ ahead * ahead
            if np.linalg.norm(beside) > -offset @ ahead:
                break  # the finger slipped past the puck
            move = np.array([*(PUSH * ahead - beside), LOW - state.scene["finger"][2]])
            yield np.clip(move / REACH, -1.0, 1.0)
        yield from self._go(state, [*(state.scene[puck] - BEHIND * ahead), HIGH])

    @staticmethod
    def _go(state: EpisodeState[SceneState], place: list[float]) -> Iterator[np.ndarray]:
        """Move straight until the finger is there."""
        while np.linalg.norm(way := place - state.scene["finger"]) > NEAR:
            yield np.clip(way / REACH, -1.0, 1.0)
