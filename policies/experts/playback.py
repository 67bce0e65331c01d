"""An expert that plays back what upstream's own planner planned, or what was recorded, step by step.

The adapter gives a plan as the privileged entry :data:`PLAN` at an episode's start, ``float32[steps, A]``; an expert with a recording
takes the episode's from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..api import PolicyError, Request
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
