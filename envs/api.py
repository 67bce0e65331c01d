"""The env API: the values that the rooms share, and the base class of every adapter.

Shapes: ``A`` action channels of an embodiment, ``S`` numbers of its state vector, ``H`` rows of an action chunk.
"""

from __future__ import annotations

import hashlib
import random
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
from .pictures import as_seen
from .snapshot import (
    ChunkResult,
    Frames,
    Needs,
    Observation,
    Outcome,
    Row,
    Snapshot,
    observation_space,
    observe,
    snapshot_info,
)

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
    "Row",
    "Snapshot",
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
        row, column = np.argwhere(~np.isfinite(array))[0]
        name = embodiment.channels[column].name
        raise BadActionError(f"the action {name!r} of row {row} is {array[row, column]}; give finite numbers")
    return array


class Env(gymnasium.Env[Observation, np.ndarray], ABC):
    """One slot's simulator: the base class of every adapter.

    An adapter fills in the hooks ``begin``, ``apply``, ``state``, ``render_view`` and ``simulator_state`` (and, where it has
    something to tell, ``privileged``, ``metrics``, ``sibling``); the step limit, the success rule, digests, schedules of frames
    and Gymnasium's ``reset`` and ``step`` are built from them here. The contract, which ``vlarig envs check`` tests: an episode is a
    function of its :class:`Episode` and the actions alone, whatever ran before in the process.
    """

    embodiment: Embodiment

    def __init__(self) -> None:
        self.episode: Optional[Episode] = None
        self._generators: tuple[Any, Any] = seeded_generators(0)

    # Hooks: what an adapter implements.

    @abstractmethod
    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Put the world at the episode's start and return the instruction.

        ``rng`` and the process-wide generators of ``random`` and ``numpy.random`` are freshly seeded with ``episode.seed``.
        """

    @abstractmethod
    def apply(self, action: np.ndarray) -> Row:
        """Carry out one row, ``float32[A]``; the step limit and the success rule are not the adapter's business."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """The robot's state, ``float32[S]`` in the embodiment's ``state_layout``."""

    @abstractmethod
    def render_view(self, camera: Camera) -> np.ndarray:
        """The camera's image of this moment, ``uint8[height, width, 3]``, upright; must not change the simulator's state.

        ``camera`` has the size to draw; what the protocol does to the picture afterwards is not the adapter's business.
        """

    @abstractmethod
    def simulator_state(self) -> np.ndarray:
        """All that decides the future, as one float64 array; it is hashed after the reset and after every row."""

    def privileged(self) -> dict[str, np.ndarray]:
        """Simulator truth by name, for scripted experts."""
        return {}

    def metrics(self) -> dict[str, float]:
        """The benchmark's own measures of the episode so far."""
        return {}

    def prepare(self, episode: Episode) -> Optional[dict[str, Any]]:
        """Try a candidate for an initial state, for suites whose initial states are found beforehand (``vlarig prepare``).

        Args:
            episode: What begins there, with the candidate's payload. It is not under way, before or afterwards.

        Returns:
            Plain data that the payload of episodes that begin there holds besides; ``None`` where the candidate will not do.
        """
        raise VlarigError(f"{type(self).__name__} prepares nothing; write its prepare(), or leave out the suite's preparation")

    def sibling(self) -> Env:
        """A further env for the same process. Override it to share models or a renderer with this one."""
        return type(self)()

    # The machinery that every adapter shares.

    def open(self, episode: Episode, needs: Needs) -> Snapshot:
        """Start an episode and show its first moment."""
        for camera in episode.protocol.cameras:
            if camera.view not in self.embodiment.cameras:
                views = ", ".join(self.embodiment.cameras)
                raise VlarigError(f"{self.embodiment.name} has no view {camera.view!r}; it has {views}")
        waiting = self._waiting_row(episode.protocol)
        self.episode = episode
        self._cameras = episode.protocol.cameras
        self._needs = needs
        self._outcome = Outcome()
        self._over = True  # until it has begun
        self._step = 0
        self._primitives = 0
        self._frames: list[tuple[int, dict[str, np.ndarray]]] = []
        self._state_hash = hashlib.sha256()
        self._image_hash = hashlib.sha256()
        self._seconds = {"simulate": 0.0, "render": 0.0}
        self._generators = seeded_generators(episode.seed)
        with self._own_generators():
            with self._timed("simulate"):
                self._instruction = self.begin(episode, np.random.default_rng(episode.seed))
                for _ in range(episode.protocol.wait_steps):
                    self.apply(waiting.copy())
            self._over = False
            self._hash_state()
            return self._snapshot()

    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        """Run up to ``execute`` rows of ``actions``, ``float32[H, A]``, and stop where the protocol says so.

        Raises:
            BadActionError: The actions have a wrong shape or a value that is not finite.
            VlarigError: No episode is under way.
        """
        if self.episode is None or self._over:
            state = "no episode was started" if self.episode is None else "the episode is over"
            raise VlarigError(f"the env cannot step: {state}; call reset with an episode first")
        protocol = self.episode.protocol
        checked = check_actions(actions, self.embodiment)[: protocol.execute]
        _decide_grippers(checked, self.embodiment, protocol.gripper)
        rows = []
        with self._own_generators():
            for action in checked:
                rows.append(self._run_row(action))
                if self._over:
                    break
                if self._needs.every_frame and len(rows) < len(checked):
                    with self._looking():
                        self._shoot()
            return ChunkResult(tuple(rows), self._snapshot())

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
        """Gymnasium's step: one row, ``[A]``."""
        result = self.step_chunk(check_actions([action], self.embodiment))
        row = result.rows[0]
        terminated = row.terminated or row.stopped
        return observe(result.snapshot), row.reward, terminated, row.truncated, snapshot_info(result.snapshot)

    @property
    def action_space(self) -> spaces.Space[np.ndarray]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The embodiment's legal action rows."""
        return self.embodiment.action_space()

    @property
    def observation_space(self) -> spaces.Space[Observation]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The space of the current episode's observations."""
        if self.episode is None:
            raise VlarigError("the observation space depends on the episode's protocol; call reset first")
        return observation_space(self.embodiment, self.episode.protocol.cameras)

    def _waiting_row(self, protocol: Protocol) -> np.ndarray:
        """What is carried out before the first observation, ``float32[A]``."""
        row, size = np.array(protocol.wait_action, dtype=np.float32), self.embodiment.action_size
        if protocol.wait_steps and len(row) != size:
            raise VlarigError(
                f"wait_action of protocol {protocol.name!r} has {len(row)} numbers; {self.embodiment.name} takes {size} "
                f"({', '.join(channel.name for channel in self.embodiment.channels)})"
            )
        return row

    def _run_row(self, action: np.ndarray) -> Row:
        assert self.episode is not None
        protocol = self.episode.protocol
        with self._timed("simulate"):
            row = self.apply(action)
        self._hash_state()
        self._step += 1
        self._primitives += row.primitives
        self._outcome = self._outcome.after(row)
        if row.terminated and row.success_at_end:
            self._outcome = replace(self._outcome, cut_short=True)
        if protocol.stop_on_success and self._outcome.under(protocol.success_rule, protocol.hold_steps):
            self._outcome = replace(self._outcome, cut_short=True)
            row = replace(row, terminated=True)
        used = self._step if protocol.limit_unit == "rows" else self._primitives
        if used >= self.episode.step_limit and not (row.terminated or row.stopped):
            row = replace(row, truncated=True)
        self._over = row.over
        return row

    def _snapshot(self) -> Snapshot:
        """What is shown now; the frames taken since the last snapshot leave with it."""
        asked_again = not self._over
        with self._looking():
            if self._needs.every_frame or (self._needs.images and (asked_again or self._needs.final_frame)):
                self._shoot()
            state = np.array(self.state(), dtype=np.float32)
            privileged = self.privileged() if self._needs.privileged else {}
            metrics = self.metrics()
        if self._needs.images and asked_again:
            self._hash_newest_images()
        frames, self._frames = self._frames, []
        seconds, self._seconds = self._seconds, {"simulate": 0.0, "render": 0.0}
        views = [camera.view for camera in self._cameras] if frames else []
        return Snapshot(
            instruction=self._instruction,
            step=self._step,
            primitives=self._primitives,
            state=state,
            frames=Frames(
                steps=tuple(step for step, _ in frames),
                views={view: np.stack([images[view] for _, images in frames]) for view in views},
            ),
            privileged=privileged,
            metrics=metrics,
            outcome=self._outcome,
            state_digest=self._state_hash.hexdigest(),
            image_digest=self._image_hash.hexdigest(),
            seconds=seconds,
        )

    def _shoot(self) -> None:
        with self._timed("render"):
            images = {camera.view: as_seen(self.render_view(camera.as_drawn), camera) for camera in self._cameras}
            self._frames.append((self._step, images))

    def _hash_newest_images(self) -> None:
        _, images = self._frames[-1]
        for view in sorted(images):
            self._image_hash.update(np.ascontiguousarray(images[view]).data)

    def _hash_state(self) -> None:
        self._state_hash.update(np.ascontiguousarray(self.simulator_state(), dtype="<f8").data)

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[activity] += time.perf_counter() - began

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Lend this slot its own process-wide generators, so that slots of one process never share a draw."""
        outside = generators()
        set_generators(self._generators)
        try:
            yield
        finally:
            self._generators = generators()
            set_generators(outside)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Give back what is drawn meanwhile, so that a frame more or less does not change the future."""
        before = generators()
        try:
            yield
        finally:
            set_generators(before)


def _decide_grippers(actions: np.ndarray, embodiment: Embodiment, rule: str) -> None:
    """Change the gripper channels of ``actions``, ``float32[H, A]``, as a protocol's ``gripper`` says."""
    if rule == "as_given":
        return
    columns = [index for index, channel in enumerate(embodiment.channels) if channel.gripper is not None]
    numbers = actions[:, columns]
    if rule == "half":
        actions[:, columns] = numbers > 0.5
    else:
        actions[:, columns] = np.sign(numbers) if rule == "sign" else np.where(numbers < 0, -1.0, 1.0)


def generators() -> tuple[Any, Any]:
    """The states of the process-wide generators."""
    return random.getstate(), np.random.get_state()


def seeded_generators(seed: int) -> tuple[Any, Any]:
    """The states of process-wide generators that were just seeded."""
    return random.Random(seed).getstate(), np.random.RandomState(seed).get_state()


def set_generators(states: tuple[Any, Any]) -> None:
    """Bring the process-wide generators into these states."""
    random.setstate(states[0])
    np.random.set_state(states[1])
