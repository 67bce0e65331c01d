"""Demonstrations in words: subtask segments, a step-by-step caption, and the 13 dimensions of fine-grained captions.

The paper (section 3.2.5, Table 3) puts a step-by-step caption beside the coarse label of an episode, annotated "along 13
dimensions", and names in that sentence: action primitive; actor identity; object recognition and disambiguation; contact region;
source and target location; trajectory and orientation; gripper state; body motion. With each "and" counted as two these are eleven.
The same paragraph names two more items that its stages extract, and :data:`DIMENSIONS` counts them as the twelfth and thirteenth:
the coarse action sequence, and spatial relationships.

What a suite's scenes are called only the suite knows: its :class:`Describer` puts a demonstration of it into words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..envs.embodiments import Embodiment

#: The thirteen dimensions of a caption, in the paper's order.
DIMENSIONS = (
    "action primitive",
    "actor identity",
    "object recognition",
    "object disambiguation",
    "contact region",
    "source location",
    "target location",
    "trajectory",
    "orientation",
    "gripper state",
    "body motion",
    "action sequence",
    "spatial relations",
)


@dataclass(frozen=True)
class Segment:
    """One subtask of an episode.

    Attributes:
        begin: Its first step.
        end: The step after its last.
        label: The subtask as a coarse instruction: ``pick up the red cube``.
        words: The same in detail: ``Pick up the red cube from the far left of the table ...``.
        dimensions: What is known of it, by :data:`DIMENSIONS`; those that are not known are left out.
    """

    begin: int
    end: int
    label: str
    words: str
    dimensions: Mapping[str, str]

    def __post_init__(self) -> None:
        unknown = [name for name in self.dimensions if name not in DIMENSIONS]
        if not 0 <= self.begin < self.end or unknown:
            raise ValueError(
                f"the segment {self.label!r} is of the steps {self.begin} to {self.end} and has the dimensions "
                f"{', '.join(self.dimensions)}; expected one step or more, and of the dimensions {', '.join(DIMENSIONS)}"
            )


@dataclass(frozen=True)
class Description:
    """An episode in words.

    Attributes:
        segments: Its subtasks, in their order; together they cover all steps.
    """

    segments: tuple[Segment, ...]

    @property
    def caption(self) -> str:
        """``Step 1: ... Step 2: ...``."""
        return " ".join(f"Step {number}: {segment.words}" for number, segment in enumerate(self.segments, start=1))

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        """For each of :data:`DIMENSIONS` a text for each segment, empty where it is not known."""
        return {name: tuple(each.dimensions.get(name, "") for each in self.segments) for name in DIMENSIONS}


#: Puts an episode of a suite into words: of the stage of each of its ``J`` steps, as the replies name it
#: (:attr:`~vlarig.policies.api.Reply.stages`); of ``J`` times the simulator's truth at the request for the step
#: (:meth:`~vlarig.envs.api.Env.privileged`), which steps of one chunk share, where experts are queried before each step; of
#: ``float32[J, P]``, the observed state before each step; and of the robot. ``None`` where it does not know the stages' words.
Describer = Callable[[Sequence[str], Sequence[Mapping[str, np.ndarray]], np.ndarray, Embodiment], Description | None]
