"""The values that an env returns: steps, outcomes, frames, snapshots, and the observation that a policy sees.

Shapes: ``P`` numbers of the state vector, ``M`` frames of an observation's history, ``X`` frames that are new since the last look,
``h`` and ``w`` height and width of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Optional, TypedDict, cast

import numpy as np
from gymnasium import spaces

from .embodiments import Embodiment
from .episode import Camera
from .scene_objects import SceneObject


class Observation(TypedDict):
    """What a policy sees, in the form of a :class:`gymnasium.spaces.Dict` sample."""

    images: dict[str, np.ndarray]
    """View tag to ``uint8[M, h, w, 3]``, upright; empty for a policy that reads no images."""
    state: np.ndarray
    """``float32[P]`` in the embodiment's ``state_layout``."""
    instruction: str
    """The task in words."""


@dataclass(frozen=True)
class Needs:
    """What an episode's observer receives; nothing else is rendered or sent.

    Attributes:
        images: Frames of the protocol's cameras at each request to the policy.
        privileged: The simulator's own truth, for scripted experts alone.
        final_frame: A frame after the last step too (RL bootstraps a value there; a sweep does not use it).
        every_frame: A frame after each step, for a film or a recording, with the state beside it.
        film_views: Beside the cameras' frames, those of :meth:`~vlarig.envs.api.Env.film_views`, which no policy sees.
        objects: What the frames show, see :meth:`~vlarig.envs.api.Env.describe`: labels of vision-language data.
    """

    images: bool = True
    privileged: bool = False
    final_frame: bool = False
    every_frame: bool = False
    film_views: bool = False
    objects: bool = False


@dataclass(frozen=True)
class StepResult:
    """The result of one action.

    Attributes:
        reward: The simulator's reward over the step.
        success_within: The task was solved at some time during the step.
        success_at_end: The task is solved at the end of the step.
        primitives: Simulator moves that the step was carried out with.
        terminated: The episode is over for a reason of its own: a solved task, a final failure.
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
        """Whether this is the episode's last step."""
        return self.terminated or self.truncated or self.stopped


@dataclass(frozen=True)
class Outcome:
    """The result of the steps so far under every success rule.

    Attributes:
        first: Success at some time.
        final: Success at the end of the latest step.
        streak: Steps in succession, up to the latest, that ended in success.
        longest_streak: The longest such run so far.
        cut_short: The protocol ended the episode on success, so what follows is unknown.
    """

    first: bool = False
    final: bool = False
    streak: int = 0
    longest_streak: int = 0
    cut_short: bool = False

    def after(self, step: StepResult) -> Outcome:
        """The outcome once ``step`` is counted too."""
        streak = self.streak + 1 if step.success_at_end else 0
        return replace(
            self,
            first=self.first or step.success_within or step.success_at_end,
            final=step.success_at_end,
            streak=streak,
            longest_streak=max(self.longest_streak, streak),
        )

    def under(self, rule: str, hold_steps: int = 1) -> Optional[bool]:
        """Success under ``rule``, or ``None`` where the episode ended too early for a result."""
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
        steps: ``X`` step numbers.
        views: View tag to ``uint8[X, h, w, 3]``, upright.
        states: ``float32[X, P]``, the robot's state beside each frame, where a frame after each step is needed; else empty. A walker,
            which has no state, has its pose here, from where it began.
    """

    steps: tuple[int, ...] = ()
    views: dict[str, np.ndarray] = field(default_factory=dict)
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class Snapshot:
    """What an env returns after a reset or a chunk.

    Attributes:
        instruction: The task in words.
        step: Steps executed since the reset.
        primitives: Simulator moves made since the reset.
        state: ``float32[P]``.
        frames: The frames that are new and due.
        privileged: Simulator truth by name, empty unless requested.
        metrics: The benchmark's own measures so far.
        outcome: Success so far.
        state_digest: SHA-256, in hex, over the simulator's state after the reset and after every step.
        image_digest: SHA-256, in hex, over every image that the policy was shown.
        seconds: Time spent since the last snapshot, by activity: ``simulate`` and ``render``.
        objects: View tag to what its newest frame shows, empty unless requested.
        history: View tag to ``uint8[M, h, w, 3]``, the frames of the observation, oldest first; empty where it has the newest alone.
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
    objects: dict[str, tuple[SceneObject, ...]] = field(default_factory=dict)
    history: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk of actions did.

    Attributes:
        steps: What each executed step did.
        snapshot: What the env shows afterwards.
    """

    steps: tuple[StepResult, ...]
    snapshot: Snapshot

    @property
    def over(self) -> bool:
        """Whether the episode ended in this chunk."""
        return self.steps[-1].over


def frames_shown(step: int, history: int) -> list[int]:
    """The steps whose frames are shown after a step, the oldest first: ``history`` of them, spread evenly, or all there are."""
    count = min(history, step + 1)
    return [step] if count == 1 else np.rint(np.linspace(0, step, count)).astype(int).tolist()


def observation_space(embodiment: Embodiment, cameras: tuple[Camera, ...], history: int = 1) -> spaces.Space[Observation]:
    """The space of :class:`Observation` through some cameras, with one frame a view, or up to ``history``."""
    images: dict[str, spaces.Space[Any]] = {}
    for each in cameras:
        frame = spaces.Box(0, 255, (each.height, each.width, 3), np.uint8)
        one = spaces.Box(0, 255, (1, *frame.shape), np.uint8)
        images[each.view] = one if history == 1 else spaces.Sequence(frame, stack=True)
    state = spaces.Box(-np.inf, np.inf, (len(embodiment.state_layout),), np.float32)
    instruction = spaces.Text(max_length=1000, charset="".join(map(chr, range(32, 127))))
    space = spaces.Dict({"images": spaces.Dict(images), "state": state, "instruction": instruction})
    return cast("spaces.Space[Observation]", space)


def observe(snapshot: Snapshot) -> Observation:
    """The observation that a snapshot gives: the newest frame of each view, or its history."""
    images = snapshot.history or {view: frames[-1:] for view, frames in snapshot.frames.views.items()}
    return Observation(images=images, state=snapshot.state, instruction=snapshot.instruction)


def snapshot_info(snapshot: Snapshot) -> dict[str, Any]:
    """The ``info`` of Gymnasium's reset and step."""
    return {
        "step": snapshot.step,
        "success": snapshot.outcome.final,
        "metrics": snapshot.metrics,
        "state_digest": snapshot.state_digest,
    }
