"""The env API: an episode as a value, what an env shows and answers, and the base class of every adapter.

Shapes: ``A`` action channels of an embodiment, ``S`` numbers of its state vector, ``H`` rows of an action chunk, ``T`` frames of
an observation's history, ``F`` frames that are new since the last look.
"""

from __future__ import annotations

import hashlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Optional, TypedDict, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from .embodiments import Embodiment
from .errors import BadActionError, VlarigError

SUCCESS_RULES = ("first", "final", "held")


@dataclass(frozen=True)
class Camera:
    """One view that a protocol asks for.

    Attributes:
        view: View tag, one of the embodiment's ``cameras``.
        height: Image height in pixels.
        width: Image width in pixels.
    """

    view: str
    height: int
    width: int


@dataclass(frozen=True)
class Protocol:
    """How a benchmark's episodes are run and scored; all of it is part of an episode's identity.

    Attributes:
        name: Name within the suite. A changed field makes a derived protocol with a name of its own (:meth:`derive`).
        version: Raised when the meaning of the name changes.
        step_limit: Longest episode, counted in ``limit_unit``.
        limit_unit: ``rows`` of actions, or the ``primitives`` that an adapter makes of them (a waypoint is several moves).
        cameras: Views to show to a policy that reads images.
        execute: How many of the predicted rows are run before the policy is asked again.
        stop_on_success: Whether the episode ends as soon as ``success_rule`` is fulfilled.
        success_rule: ``first`` (success at any moment counts), ``final`` (only success at the end counts), ``held`` (success
            at the end of ``hold_rows`` rows in succession counts).
        hold_rows: Rows that ``held`` asks for.
        derived_from: Name of the protocol that this one was derived from; empty for a benchmark's own.
    """

    name: str
    version: int
    step_limit: int
    cameras: tuple[Camera, ...]
    execute: int
    limit_unit: str = "rows"
    stop_on_success: bool = True
    success_rule: str = "first"
    hold_rows: int = 1
    derived_from: str = ""

    def __post_init__(self) -> None:
        check_name("protocol", self.name)
        views = [camera.view for camera in self.cameras]
        if len(set(views)) != len(views):
            raise ValueError(f"cameras show a view twice: {', '.join(views)}")
        if self.success_rule not in SUCCESS_RULES:
            raise ValueError(f"success_rule is {self.success_rule!r}, expected one of {', '.join(SUCCESS_RULES)}")
        if self.limit_unit not in ("rows", "primitives"):
            raise ValueError(f"limit_unit is {self.limit_unit!r}, expected 'rows' or 'primitives'")
        if self.success_rule == "final" and self.stop_on_success:
            raise ValueError("success_rule 'final' scores the end of the episode, so stop_on_success must be false")
        for name in ("step_limit", "execute", "hold_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def derive(self, **changes: Any) -> Protocol:
        """The same protocol with other values in some plain fields, named after what differs (``standard-execute8``).

        A change to the value that a field already has is none: the protocol keeps its name.

        Raises:
            ValueError: This protocol is derived itself, so that the name would depend on the way there; or a value is not plain.
        """
        changes = {name: value for name, value in sorted(changes.items()) if getattr(self, name) != value}
        if not changes:
            return self
        if self.derived_from:
            raise ValueError(
                f"protocol {self.name!r} is derived already; derive from {self.derived_from!r} with all changes at once"
            )
        if "name" in changes or not all(isinstance(value, (int, str)) for value in changes.values()):
            raise ValueError(f"cannot derive a protocol by {changes!r}; change numbers, words or flags, and give no name")
        suffix = "".join(f"-{name}{value}" for name, value in changes.items())
        return replace(self, name=self.name + suffix, derived_from=self.name, **changes)


def check_name(kind: str, name: str) -> None:
    """Make sure that a part of an episode's key cannot be taken for two.

    Raises:
        ValueError: ``name`` is empty or holds a ``/`` or an ``@``.
    """
    if not name or "/" in name or "@" in name:
        raise ValueError(f"the {kind}'s name is {name!r}; expected one without '/' and '@'")


@dataclass(frozen=True)
class Episode:
    """One episode to run: a value whose :attr:`key` is the same string on every machine for ever.

    Attributes:
        suite: Name of the suite.
        protocol: The resolved protocol.
        task: Name of the task within the suite.
        variant: Name of a variation of the task; ``base`` where a suite has none.
        start: The benchmark's own literal seed or row of the start, never a position in a list.
        repeat: Counts episodes that share all of the above.
        payload: What the adapter needs to build the episode, as plain data: a scene, a goal, a prepared motion.
    """

    suite: str
    protocol: Protocol
    task: str
    variant: str
    start: int
    repeat: int = 0
    payload: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("suite", "task", "variant"):
            check_name(kind, getattr(self, kind))

    @property
    def key(self) -> str:
        """``suite/protocol@version/task/variant/start/repeat``."""
        protocol = f"{self.protocol.name}@{self.protocol.version}"
        return f"{self.suite}/{protocol}/{self.task}/{self.variant}/{self.start}/{self.repeat}"

    @property
    def seed(self) -> int:
        """Seed of every generator that the simulator draws from: 32 bits of SHA-256 over suite, task, variant, start, repeat."""
        identity = f"{self.suite}/{self.task}/{self.variant}/{self.start}/{self.repeat}"
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")


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

    def under(self, rule: str, hold_rows: int = 1) -> Optional[bool]:
        """Success under ``rule``, or ``None`` where the episode ended too early to tell."""
        if rule == "first":
            return self.first
        if rule == "held" and self.longest_streak >= hold_rows:
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


def check_actions(actions: ArrayLike, embodiment: Embodiment) -> np.ndarray:
    """A copy of ``actions`` as ``float32[H, A]``.

    Raises:
        BadActionError: The shape is not ``[H, A]`` with ``H >= 1``, or a value is not finite.
    """
    wanted = f"[H, {embodiment.action_size}] for {embodiment.name} ({', '.join(c.name for c in embodiment.channels)})"
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
            array = np.array(actions, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadActionError(f"actions are no array of numbers ({type(actions).__name__}); give float32{wanted}") from None
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != embodiment.action_size:
        raise BadActionError(f"actions have shape {list(array.shape)}; give {wanted}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        name = embodiment.channels[column].name
        raise BadActionError(f"the action {name!r} of row {row} is {array[row, column]}; give finite numbers")
    return array


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
        self._generators: tuple[Any, Any] = (random.Random(0).getstate(), np.random.RandomState(0).get_state())

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
        """The camera's image of this moment, ``uint8[height, width, 3]``, upright; must not change the simulator's state."""

    @abstractmethod
    def simulator_state(self) -> np.ndarray:
        """All that decides the future, as one float64 array; it is hashed after the reset and after every row."""

    def privileged(self) -> dict[str, np.ndarray]:
        """Simulator truth by name, for scripted experts."""
        return {}

    def metrics(self) -> dict[str, float]:
        """The benchmark's own measures of the episode so far."""
        return {}

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
        self.episode = episode
        self._needs = needs
        self._outcome = Outcome()
        self._over = True  # until it has begun
        self._step = 0
        self._primitives = 0
        self._frames: list[tuple[int, dict[str, np.ndarray]]] = []
        self._state_hash = hashlib.sha256()
        self._image_hash = hashlib.sha256()
        self._seconds = {"simulate": 0.0, "render": 0.0}
        self._generators = (random.Random(episode.seed).getstate(), np.random.RandomState(episode.seed).get_state())
        with self._timed("simulate"), self._own_generators():
            self._instruction = self.begin(episode, np.random.default_rng(episode.seed))
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
        checked = check_actions(actions, self.embodiment)[: self.episode.protocol.execute]
        rows = []
        for action in checked:
            rows.append(self._run_row(action))
            if self._over:
                break
            if self._needs.every_frame and len(rows) < len(checked):
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

    def _run_row(self, action: np.ndarray) -> Row:
        assert self.episode is not None
        protocol = self.episode.protocol
        with self._timed("simulate"), self._own_generators():
            row = self.apply(action)
        self._hash_state()
        self._step += 1
        self._primitives += row.primitives
        self._outcome = self._outcome.after(row)
        if row.terminated and row.success_at_end:
            self._outcome = replace(self._outcome, cut_short=True)
        if protocol.stop_on_success and self._outcome.under(protocol.success_rule, protocol.hold_rows):
            self._outcome = replace(self._outcome, cut_short=True)
            row = replace(row, terminated=True)
        used = self._step if protocol.limit_unit == "rows" else self._primitives
        if used >= protocol.step_limit and not (row.terminated or row.stopped):
            row = replace(row, truncated=True)
        self._over = row.over
        return row

    def _snapshot(self) -> Snapshot:
        """What is shown now; the frames taken since the last snapshot leave with it."""
        asked_again = not self._over
        if self._needs.every_frame or (self._needs.images and (asked_again or self._needs.final_frame)):
            self._shoot()
        if self._needs.images and asked_again:
            self._hash_newest_images()
        with self._own_generators(looking=True):
            state = np.array(self.state(), dtype=np.float32)
            privileged = self.privileged() if self._needs.privileged else {}
            metrics = self.metrics()
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

    @property
    def _cameras(self) -> tuple[Camera, ...]:
        assert self.episode is not None
        return self.episode.protocol.cameras

    def _shoot(self) -> None:
        with self._timed("render"), self._own_generators(looking=True):
            self._frames.append((self._step, {camera.view: self.render_view(camera) for camera in self._cameras}))

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
    def _own_generators(self, looking: bool = False) -> Iterator[None]:
        """Lend this slot its own process-wide generators, so that slots of one process never share a draw.

        What is drawn while ``looking`` is given back, so that a frame more or less does not change the future.
        """
        outside = (random.getstate(), np.random.get_state())
        random.setstate(self._generators[0])
        np.random.set_state(self._generators[1])
        try:
            yield
        finally:
            if not looking:
                self._generators = (random.getstate(), np.random.get_state())
            random.setstate(outside[0])
            np.random.set_state(outside[1])


def snapshot_info(snapshot: Snapshot) -> dict[str, Any]:
    """What Gymnasium's reset and step give as ``info``."""
    return {
        "step": snapshot.step,
        "success": snapshot.outcome.final,
        "metrics": snapshot.metrics,
        "state_digest": snapshot.state_digest,
    }
