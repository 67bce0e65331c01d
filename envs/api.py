"""The env API: the values shared by the packages, and the base class of every adapter.

Shapes: ``A`` action channels of an embodiment, ``P`` numbers of its state vector, ``H`` steps of an action chunk.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Optional

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from .embodiments import Embodiment
from .episode import Camera, Episode, Protocol
from .errors import BadActionError, VlarigError
from .generators import generators, seeded_generators, set_generators, using_generators
from .images import as_seen
from .scene_objects import SceneObject, objects_as_seen
from .snapshot import (
    ChunkResult,
    Frames,
    Needs,
    Observation,
    Outcome,
    Snapshot,
    StepResult,
    frames_shown,
    observation_space,
    observe,
    snapshot_info,
)
from .upstream import Patch

__all__ = [
    "Camera",
    "ChunkResult",
    "Env",
    "Episode",
    "Frames",
    "Needs",
    "Observation",
    "Outcome",
    "Protocol",
    "SceneObject",
    "Snapshot",
    "StepResult",
    "check_actions",
    "observation_space",
    "observe",
    "snapshot_info",
]


def check_actions(actions: ArrayLike, embodiment: Embodiment) -> np.ndarray:
    """A copy of ``actions`` as ``float32[H, A]``.

    Raises:
        BadActionError: The shape is not ``[H, A]`` with ``H >= 1``, a value is no real number (complex, text), or not finite.
    """
    wanted = f"[H, {embodiment.action_size}] for {embodiment.name} ({', '.join(c.name for c in embodiment.channels)})"
    try:
        given = np.asarray(actions)
        if given.dtype.kind in "cmMOSU":  # numpy drops the imaginary part, and reads text as numbers
            raise TypeError
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
            array = np.array(given, dtype=np.float32)
    except (TypeError, ValueError):
        kind = getattr(actions, "dtype", type(actions).__name__)
        raise BadActionError(f"actions are no array of real numbers ({kind}); give float32{wanted}") from None
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != embodiment.action_size:
        raise BadActionError(f"actions have shape {list(array.shape)}; give {wanted}")
    if not np.isfinite(array).all():
        step, channel = np.argwhere(~np.isfinite(array))[0]
        name = embodiment.channels[channel].name
        raise BadActionError(f"the action {name!r} of step {step} is {array[step, channel]}; give finite numbers")
    return array


class Env(gymnasium.Env[Observation, np.ndarray], ABC):
    """One env's simulator: the base class of every adapter.

    An adapter fills in the hooks ``begin``, ``apply``, ``state``, ``render_view`` and ``simulator_state`` (and, where it has values for
    them, ``privileged``, ``describe``, ``metrics``, ``sibling``); the step limit, the success rule, digests, schedules of frames and
    Gymnasium's ``reset`` and ``step`` are built from them here. The contract, which ``vlarig envs check`` tests: an episode is a
    function of its :class:`Episode` and the actions alone, whatever ran before in the process.
    """

    embodiment: Embodiment
    """The robot and its control convention."""

    patches: tuple[Patch, ...] = ()
    """What the adapter changes in upstream's code."""

    def __init__(self) -> None:
        self.episode: Optional[Episode] = None
        """The episode that was started last."""

    # Hooks: what an adapter implements.

    @abstractmethod
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Put the world at the episode's start and return the instruction.

        ``rng`` and the process-wide generators of ``random`` and ``numpy.random`` are freshly seeded with ``episode.seed``.
        """

    @abstractmethod
    def apply(self, action: np.ndarray) -> StepResult:
        """Carry out one step, ``float32[A]``; the step limit and the success rule are applied by the base class."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """The robot's state, ``float32[P]`` in the embodiment's ``state_layout``."""

    @abstractmethod
    def render_view(self, camera: Camera) -> np.ndarray:
        """The camera's current image, ``uint8[height, width, 3]``, upright; must not change the simulator's state.

        ``camera`` has the size to render; the base class applies the protocol's changes to the image.
        """

    @abstractmethod
    def simulator_state(self) -> np.ndarray:
        """The whole state that decides the future, as one float64 array; it is hashed after the reset and after every step."""

    def privileged(self) -> dict[str, np.ndarray]:
        """Simulator truth by name, for scripted experts."""
        return {}

    def describe(self, camera: Camera) -> list[SceneObject]:
        """What :meth:`render_view` shows now, with boxes in its pixels; must not change the simulator's state.

        Described are the objects that an instruction may name, not the robot, the table or the room.
        """
        return []

    def recorded_state(self) -> np.ndarray:
        """What a recording keeps beside each frame, float32: the robot's state, or a walker's pose from where it began."""
        return self.state()

    def film_views(self) -> dict[str, np.ndarray]:
        """Further current images for a film, by name, ``uint8[height, width, 3]`` of one size throughout an episode."""
        return {}

    def metrics(self) -> dict[str, float]:
        """The benchmark's own measures of the episode so far."""
        return {}

    def prepare(self, episode: Episode) -> Optional[dict[str, Any]]:
        """Test a candidate for an initial state, for suites whose initial states are found beforehand (``vlarig envs prepare``).

        Args:
            episode: What begins there, with the candidate's payload. It is not under way, before or afterwards.

        Returns:
            Plain data to add to the payload of episodes that begin there; ``None`` where the candidate is unfit.
        """
        raise VlarigError(f"{type(self).__name__} prepares nothing; write its prepare(), or leave out the suite's preparation")

    def sibling(self) -> Env:
        """A further env for the same process. Override it to share models or a renderer with this one."""
        return type(self)()

    # The part that every adapter shares.

    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        """Start an episode and return its first snapshot."""
        for camera in episode.protocol.cameras:
            if camera.view not in self.embodiment.cameras:
                views = ", ".join(self.embodiment.cameras)
                raise VlarigError(f"{self.embodiment.name} has no view {camera.view!r}; it has {views}")
        waiting = self._waiting_step(episode.protocol)
        self.episode = episode
        self._cameras = episode.protocol.cameras
        self._needs = needs
        self._keeps_history = needs.images and episode.protocol.history > 1
        self._outcome = Outcome()
        self._over = True  # until it has begun
        self._step = 0
        self._primitives = 0
        self._frames: list[tuple[int, dict[str, np.ndarray]]] = []
        self._history: list[dict[str, np.ndarray]] = []
        self._states: list[np.ndarray] = []
        self._state_hash = hashlib.sha256()
        self._image_hash = hashlib.sha256()
        self._seconds = {"simulate": 0.0, "render": 0.0}
        self._generators = seeded_generators(episode.seed)  # of its own: envs of one process never share random numbers
        with using_generators(self._generators):
            with self._timed("simulate"):
                self._instruction = self.begin(episode, np.random.default_rng(episode.seed))
                for _ in range(episode.protocol.wait_steps):
                    self.apply(waiting.copy())
            self._over = False
            self._hash_state()
            self._keep_generators()
            return self._snapshot()

    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        """Run up to the protocol's ``run_steps`` steps of ``actions``, ``float32[H, A]``, and stop where the protocol ends the episode.

        Raises:
            BadActionError: The actions have a wrong shape or a value that is not finite.
            VlarigError: No episode is under way.
        """
        if self.episode is None or self._over:
            state = "no episode was started" if self.episode is None else "the episode is over"
            raise VlarigError(f"the env cannot step: {state}; call reset with an episode first")
        protocol = self.episode.protocol
        checked = check_actions(actions, self.embodiment)[: protocol.run_steps]
        _decide_grippers(checked, self.embodiment, protocol.gripper)
        steps = []
        with using_generators(self._generators):
            for action in checked:
                steps.append(self._run_step(action))
                if self._over:
                    break
                if (self._needs.every_frame or self._keeps_history) and len(steps) < len(checked):
                    self._keep_generators()
                    self._shoot()
                    set_generators(self._generators)
            self._keep_generators()
            return ChunkResult(tuple(steps), self._snapshot())

    def reset(
        self, *, seed: Optional[int] = None, options: Optional[dict[str, Any]] = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Gymnasium's reset. ``options["episode"]`` is the episode, whose key seeds it; ``seed`` counts as its ``repeat``."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode", self.episode)
        if episode is None:
            raise VlarigError("reset got no episode; pass options={'episode': Episode(...)}")
        if seed is not None:
            episode = replace(episode, repeat=seed)
        snapshot = self.open(episode, (options or {}).get("needs", Needs(final_frame=True)))
        return observe(snapshot), snapshot_info(snapshot)

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step: one step, ``[A]``."""
        result = self.step_chunk(check_actions([action], self.embodiment))
        step = result.steps[0]
        terminated = step.terminated or step.stopped
        return observe(result.snapshot), step.reward, terminated, step.truncated, snapshot_info(result.snapshot)

    @property
    def action_space(self) -> spaces.Space[np.ndarray]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The embodiment's legal actions."""
        return self.embodiment.action_space()

    @property
    def observation_space(self) -> spaces.Space[Observation]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The space of the current episode's observations."""
        if self.episode is None:
            raise VlarigError("the observation space depends on the episode's protocol; call reset first")
        return observation_space(self.embodiment, self.episode.protocol.cameras, self.episode.protocol.history)

    def _waiting_step(self, protocol: Protocol) -> np.ndarray:
        """The step that is carried out before the first observation, ``float32[A]``."""
        step, size = np.array(protocol.wait_action, dtype=np.float32), self.embodiment.action_size
        if protocol.wait_steps and len(step) != size:
            raise VlarigError(
                f"wait_action of protocol {protocol.name!r} has {len(step)} numbers; {self.embodiment.name} takes {size} "
                f"({', '.join(channel.name for channel in self.embodiment.channels)})"
            )
        return step

    def _run_step(self, action: np.ndarray) -> StepResult:
        assert self.episode is not None
        protocol = self.episode.protocol
        with self._timed("simulate"):
            step = self.apply(action)
        self._hash_state()
        self._step += 1
        self._primitives += step.primitives
        self._outcome = self._outcome.after(step)
        if step.terminated and step.success_at_end:
            self._outcome = replace(self._outcome, cut_short=True)
        if protocol.stop_on_success and self._outcome.under(protocol.success_rule, protocol.hold_steps):
            self._outcome = replace(self._outcome, cut_short=True)
            step = replace(step, terminated=True)
        used = self._step if protocol.limit_unit == "steps" else self._primitives
        if used >= self.episode.step_limit and not (step.terminated or step.stopped):
            step = replace(step, truncated=True)
        self._over = step.over
        return step

    def _snapshot(self) -> Snapshot:
        """The current snapshot, with the frames since the last one."""
        continues = not self._over
        if self._needs.every_frame or (self._needs.images and (continues or self._needs.final_frame)):
            self._shoot()
        state = np.array(self.state(), dtype=np.float32)
        privileged = self.privileged() if self._needs.privileged else {}
        objects = self._described() if self._needs.objects else {}
        metrics = self.metrics()
        if self._needs.images and continues:
            self._hash_images()
        frames, self._frames = self._frames, []
        if not self._needs.every_frame:  # what a history needs is kept here
            frames = [frame for frame in frames if frame[0] == self._step]
        states, self._states = self._states, []
        seconds, self._seconds = self._seconds, {"simulate": 0.0, "render": 0.0}
        views = list(frames[0][1]) if frames else []
        return Snapshot(
            instruction=self._instruction,
            step=self._step,
            primitives=self._primitives,
            state=state,
            frames=Frames(
                steps=tuple(step for step, _ in frames),
                views={view: np.stack([images[view] for _, images in frames]) for view in views},
                **({"states": np.stack(states)} if states else {}),
            ),
            privileged=privileged,
            metrics=metrics,
            outcome=self._outcome,
            state_digest=self._state_hash.hexdigest(),
            image_digest=self._image_hash.hexdigest(),
            seconds=seconds,
            objects=objects,
            history=self._frames_shown(),
        )

    def _frames_shown(self) -> dict[str, np.ndarray]:
        """The observation's frames where the protocol has a history."""
        assert self.episode is not None
        if not self._keeps_history or len(self._history) <= self._step:  # an episode's last step has no frame unless needed
            return {}
        shown = [self._history[step] for step in frames_shown(self._step, self.episode.protocol.history)]
        return {camera.view: np.stack([images[camera.view] for images in shown]) for camera in self._cameras}

    def _shoot(self) -> None:
        with self._timed("render"):
            images = {camera.view: as_seen(self.render_view(camera.as_drawn), camera) for camera in self._cameras}
            if self._keeps_history:
                self._history.append(dict(images))
            if self._needs.film_views:
                images |= self.film_views()
            self._frames.append((self._step, images))
        if self._needs.every_frame:
            self._states.append(np.array(self.recorded_state(), dtype=np.float32))

    def _described(self) -> dict[str, tuple[SceneObject, ...]]:
        with self._timed("render"):
            return {camera.view: objects_as_seen(self.describe(camera.as_drawn), camera) for camera in self._cameras}

    def _hash_images(self) -> None:
        """Hash what the policy sees: the newest frame of each view; all new ones where later observations may show them."""
        for _, images in self._frames if self._keeps_history else self._frames[-1:]:
            for view in sorted(camera.view for camera in self._cameras):
                self._image_hash.update(np.ascontiguousarray(images[view]).data)

    def _hash_state(self) -> None:
        self._state_hash.update(np.ascontiguousarray(self.simulator_state(), dtype="<f8").data)

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[activity] += time.perf_counter() - began

    def _keep_generators(self) -> None:
        """Take the generators as they are for the next step, before what only looks: a frame more or less changes no future."""
        self._generators = generators()


def _decide_grippers(actions: np.ndarray, embodiment: Embodiment, rule: str) -> None:
    """Change the gripper channels of ``actions``, ``float32[H, A]``, as a protocol's ``gripper`` defines."""
    if rule == "as_given":
        return
    columns = [index for index, channel in enumerate(embodiment.channels) if channel.gripper is not None]
    numbers = actions[:, columns]
    if rule == "half":
        actions[:, columns] = numbers > 0.5
    else:
        actions[:, columns] = np.sign(numbers) if rule == "sign" else np.where(numbers < 0, -1.0, 1.0)
