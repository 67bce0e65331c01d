"""What an env shows and answers: rows, outcomes, frames, snapshots, and the observation that a policy sees.

Shapes: ``S`` numbers of the state vector, ``T`` frames of an observation's history, ``F`` frames that are new since the last look.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Optional, TypedDict, cast

import numpy as np
from gymnasium import spaces

from .embodiments import Embodiment
from .episode import Camera


class Observation(TypedDict):
    """What a policy sees, in the form of a :class:`gymnasium.spaces.Dict` sample."""

    images: dict[str, np.ndarray]
    """View tag to ``uint8[T, h, w, 3]``, upright; empty for a policy that reads no images."""
    state: np.ndarray
    """``float32[S]`` in the embodiment's ``state_layout``."""
    instruction: str


@dataclass(frozen=True)
class Needs:
    """What an episode's observer wants to receive; nothing else is rendered or sent.

    Attributes:
        images: Frames of the protocol's cameras where the policy is asked.
        privileged: The simulator's own truth, for scripted experts alone.
        final_frame: A frame after the last row too (RL bootstraps a value there; a sweep has no use for it).
        every_frame: A frame after each row, for a film.
    """

    images: bool = True
    privileged: bool = False
    final_frame: bool = False
    every_frame: bool = False


@dataclass(frozen=True)
class Row:
    """What one action row did.

    Attributes:
        reward: The simulator's reward over the row.
        success_within: The task was solved at some moment of the row.
        success_at_end: The task is solved at the end of the row.
        primitives: Simulator moves that the row was carried out with.
        terminated: The episode is over for a reason of its own: a solved task, a failure that cannot be mended.
        truncated: The episode is over because the step limit was reached.
        stopped: The policy itself declared the episode finished.
    """

    reward: float
    success_within: bool
    success_at_end: bool
    primitives: int = 1
    terminated: bool = False
    truncated: bool = False
    stopped: bool = False

    @property
    def over(self) -> bool:
        """Whether this is the episode's last row."""
        return self.terminated or self.truncated or self.stopped


@dataclass(frozen=True)
class Outcome:
    """What the rows so far say under every success rule.

    Attributes:
        first: Success at some moment.
        final: Success at the end of the latest row.
        streak: Rows in succession, up to the latest, that ended in success.
        longest_streak: The longest such run so far.
        cut_short: The protocol ended the episode on success, so what would have come later is unknown.
    """

    first: bool = False
    final: bool = False
    streak: int = 0
    longest_streak: int = 0
    cut_short: bool = False

    def after(self, row: Row) -> Outcome:
        """The outcome once ``row`` is counted too."""
        streak = self.streak + 1 if row.success_at_end else 0
        return replace(
            self,
            first=self.first or row.success_within or row.success_at_end,
            final=row.success_at_end,
            streak=streak,
            longest_streak=max(self.longest_streak, streak),
        )

    def under(self, rule: str, hold_steps: int = 1) -> Optional[bool]:
        """Success under ``rule``, or ``None`` where the episode ended too early to tell."""
        if rule == "first":
            return self.first
        if rule == "held" and self.longest_streak >= hold_steps:
            return True
        if self.cut_short:
            return None
        return self.final if rule == "final" else False


@dataclass(frozen=True)
class Frames:
    """Camera images and the steps after which they were taken (0: after the reset).

    Attributes:
        steps: ``F`` step numbers.
        views: View tag to ``uint8[F, h, w, 3]``, upright.
    """

    steps: tuple[int, ...] = ()
    views: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What an env shows after a reset or a chunk.

    Attributes:
        instruction: The task in words.
        step: Rows executed since the reset.
        primitives: Simulator moves made since the reset.
        state: ``float32[S]``.
        frames: The frames that are new and due.
        privileged: Simulator truth by name, empty unless asked for.
        metrics: The benchmark's own measures so far.
        outcome: Success so far.
        state_digest: SHA-256, in hex, over the simulator's state after the reset and after every row.
        image_digest: SHA-256, in hex, over every image that the policy was shown.
        seconds: Time spent since the last snapshot, by activity: ``simulate`` and ``render``.
    """

    instruction: str
    step: int
    primitives: int
    state: np.ndarray
    frames: Frames
    privileged: dict[str, np.ndarray]
    metrics: dict[str, float]
    outcome: Outcome
    state_digest: str
    image_digest: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk of actions did: a row for each that was executed, then what the env shows."""

    rows: tuple[Row, ...]
    snapshot: Snapshot

    @property
    def over(self) -> bool:
        """Whether the episode ended in this chunk."""
        return self.rows[-1].over


def observation_space(embodiment: Embodiment, cameras: tuple[Camera, ...]) -> spaces.Space[Observation]:
    """The space of :class:`Observation` through some cameras, with one frame a view (``T = 1``)."""
    images: dict[str, spaces.Space[Any]] = {c.view: spaces.Box(0, 255, (1, c.height, c.width, 3), np.uint8) for c in cameras}
    state = spaces.Box(-np.inf, np.inf, (len(embodiment.state_layout),), np.float32)
    instruction = spaces.Text(max_length=1000, charset="".join(map(chr, range(32, 127))))
    space = spaces.Dict({"images": spaces.Dict(images), "state": state, "instruction": instruction})
    return cast("spaces.Space[Observation]", space)


def observe(snapshot: Snapshot) -> Observation:
    """The observation that a snapshot's newest frame gives (``T = 1``)."""
    images = {view: frames[-1:] for view, frames in snapshot.frames.views.items()}
    return Observation(images=images, state=snapshot.state, instruction=snapshot.instruction)


def snapshot_info(snapshot: Snapshot) -> dict[str, Any]:
    """What Gymnasium's reset and step give as ``info``."""
    return {
        "step": snapshot.step,
        "success": snapshot.outcome.final,
        "metrics": snapshot.metrics,
        "state_digest": snapshot.state_digest,
    }
