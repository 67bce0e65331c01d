"""An episode as a value: its protocol, and the key that names it for ever."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any, Optional

SUCCESS_RULES = ("first", "final", "held")
GRIPPER_RULES = ("as_given", "binary", "sign", "half")
RESIZE_METHODS = ("pil_bilinear", "jpeg_lanczos3", "lanczos3", "cv2_area", "cv2_linear")
ENSEMBLE_RULES = ("mean", "adaptive")
MEANWHILE_RULES = ("chunk", "prefix", "still")


#: More channels than any robot has: a longer action is a mistake, and would not fit in a message's head.
MOST_CHANNELS = 1024


@dataclass(frozen=True)
class Camera:
    """One view that a protocol requires, and what is done to its image before the policy sees it.

    The simulator renders an upright image; then it is mirrored, resized and cropped, in this order, by
    :func:`vlarig.envs.images.as_seen`. Most benchmarks need none of that.

    Attributes:
        view: View tag, one of the embodiment's ``cameras``.
        height: Height of the image that the policy sees, in pixels.
        width: Width of the image that the policy sees, in pixels.
        drawn: Height and width that the simulator renders; as seen when ``None``.
        mirror: Whether left and right are swapped. (An evaluator that turns a bottom-up image by 180 degrees, as LIBERO's do,
            shows it upright and mirrored.)
        resize: How the rendered image gets the seen size, one of :data:`RESIZE_METHODS`, which are functions of
            :mod:`vlarig.envs.images`; applied wherever it is named. Empty: not at all.
        crop: Share of the image's area, from 0 to 1, that a crop about its centre keeps and that is scaled back to the whole.
    """

    view: str
    height: int
    width: int
    drawn: Optional[tuple[int, int]] = None
    mirror: bool = False
    resize: str = ""
    crop: float = 1.0

    def __post_init__(self) -> None:
        seen = (self.height, self.width)
        drawn = seen if self.drawn is None else self.drawn
        if len(drawn) != 2 or min(*seen, *drawn) < 1:
            raise ValueError(
                f"camera {self.view!r} is rendered as {drawn} and seen as {seen}; expected (height, width), 1 or more"
            )
        if self.resize and self.resize not in RESIZE_METHODS:
            raise ValueError(f"resize of camera {self.view!r} is {self.resize!r}, expected one of {', '.join(RESIZE_METHODS)}")
        if drawn != seen and not self.resize:
            raise ValueError(
                f"camera {self.view!r} is rendered as {drawn} and seen as {seen}; set resize to one of {', '.join(RESIZE_METHODS)}"
            )
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"crop of camera {self.view!r} is {self.crop}, expected a share of the area above 0 and up to 1")

    @property
    def as_drawn(self) -> Camera:
        """The same view as the simulator renders it: in that size, unchanged."""
        height, width = self.drawn or (self.height, self.width)
        return Camera(self.view, height, width)


@dataclass(frozen=True)
class Ensemble:
    """How a protocol combines the predictions of several chunks for the same time step into one.

    Attributes:
        rule: ``mean`` (the ``n``-th prediction weighs ``exp(-alpha * n)``, counted from the oldest, so that a positive ``alpha``
            weighs older ones more), or ``adaptive`` (a prediction weighs ``exp(alpha * c)``, where ``c`` is the cosine between it and
            the newest one).
        horizon: How many of the newest chunks are used; those that do not reach a time step do not count in it.
        alpha: See ``rule``; 0 weighs all predictions equally.
    """

    rule: str
    horizon: int
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in ENSEMBLE_RULES:
            raise ValueError(f"the rule of an ensemble is {self.rule!r}, expected one of {', '.join(ENSEMBLE_RULES)}")
        if self.horizon < 1:
            raise ValueError(f"the horizon of an ensemble is {self.horizon}, expected 1 or more")
        if not math.isfinite(self.alpha):
            raise ValueError(f"the alpha of an ensemble is {self.alpha}, expected a finite number")


@dataclass(frozen=True)
class Protocol:
    """How a benchmark's episodes are run and scored; all of it is part of an episode's identity.

    Attributes:
        name: Name within the suite. A changed field makes a derived protocol with a name of its own (:meth:`derive`).
        version: Raised when the meaning of the name changes.
        step_limit: Longest episode, counted in ``limit_unit``.
        task_limits: Task to its own ``step_limit``, for tasks that have another one.
        repeats: How often each initial state is played where the user gives no number of episodes.
        limit_unit: ``steps`` of actions, or the ``primitives`` that an adapter makes of them (a waypoint is several moves).
        cameras: Views to show to a policy that reads images.
        n_action_steps: How many of the predicted steps are run before the next request.
        history: ``M``, the most frames of a view in an observation. Beyond 1, a frame is taken after every step, and an observation
            has the newest with up to ``M - 1`` before it, spread evenly over the way so far, the first always among them.
        stop_on_success: Whether the episode ends as soon as ``success_rule`` is fulfilled.
        success_rule: ``first`` (success at any time counts), ``final`` (only success at the end counts), ``held`` (success
            at the end of ``hold_steps`` steps in succession counts).
        hold_steps: Steps that ``held`` requires.
        wait_steps: Steps that the env carries out by itself after its reset and before the first observation, so that objects come
            to rest. They count neither towards the step limit nor towards success.
        wait_action: The step that is carried out meanwhile, ``A`` numbers in the env's units; empty without waiting.
        gripper: How the numbers of gripper channels change before a step is carried out: ``as_given``, ``binary`` (below 0
            becomes -1, all else +1), ``sign`` (-1 or +1, and 0 stays 0), ``half`` (above 0.5 becomes 1, all else 0). Actions are
            recorded before that.
        ensemble: How predictions of several chunks for the same time step make the step that is carried out; ``None``: the newest
            chunk's alone. Actions are recorded after that.
        delay_steps: Control steps after a request at which its answer arrives; the world moves on meanwhile. 0: it waits.
        meanwhile: What the robot does until then: ``chunk`` (what is left of the chunk before, after which the new one goes on at its
            step ``delay_steps``), ``prefix`` (the same, and the policy is shown the steps that are run meanwhile, to which it fits its
            chunk), or ``still`` (it stays where it is, and the new chunk is run from its beginning).
        options: The benchmark's own switches by name, for differences of its evaluators inside the simulator.
        derived_from: Name of the protocol that this one was derived from; empty for a benchmark's own.
    """

    name: str
    version: int
    step_limit: int
    cameras: tuple[Camera, ...]
    n_action_steps: int
    limit_unit: str = "steps"
    task_limits: dict[str, int] = field(default_factory=dict)
    repeats: int = 1
    history: int = 1
    stop_on_success: bool = True
    success_rule: str = "first"
    hold_steps: int = 1
    wait_steps: int = 0
    wait_action: tuple[float, ...] = ()
    gripper: str = "as_given"
    ensemble: Optional[Ensemble] = None
    delay_steps: int = 0
    meanwhile: str = "chunk"
    options: dict[str, str] = field(default_factory=dict)
    derived_from: str = ""

    def __post_init__(self) -> None:
        check_name("protocol", self.name)
        views = [camera.view for camera in self.cameras]
        if len(set(views)) != len(views):
            raise ValueError(f"cameras show a view twice: {', '.join(views)}")
        for name, known in (("success_rule", SUCCESS_RULES), ("gripper", GRIPPER_RULES), ("meanwhile", MEANWHILE_RULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if self.limit_unit not in ("steps", "primitives"):
            raise ValueError(f"limit_unit is {self.limit_unit!r}, expected 'steps' or 'primitives'")
        if self.success_rule == "final" and self.stop_on_success:
            raise ValueError("success_rule 'final' scores the end of the episode, so stop_on_success must be false")
        for name in ("step_limit", "n_action_steps", "history", "hold_steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("wait_steps", "delay_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for task, limit in self.task_limits.items():
            if limit < 1:
                raise ValueError(f"task_limits gives task {task!r} {limit}, expected 1 or more")
        if self.wait_steps and not self.wait_action:
            raise ValueError(f"wait_steps is {self.wait_steps} and wait_action is empty; give the step to carry out meanwhile")
        if len(self.wait_action) > MOST_CHANNELS:
            raise ValueError(
                f"wait_action has {len(self.wait_action)} numbers; expected {MOST_CHANNELS} at most, one a channel"
            )
        if not all(math.isfinite(number) for number in self.wait_action):
            raise ValueError(f"wait_action is {self.wait_action}, expected finite numbers")
        if self.delay_steps and self.ensemble is not None:
            raise ValueError(f"delay_steps is {self.delay_steps} beside an ensemble; a protocol has one of the two")
        if self.meanwhile != "still" and self.delay_steps > self.n_action_steps:
            raise ValueError(
                f"delay_steps is {self.delay_steps} and n_action_steps {self.n_action_steps}: an answer has to arrive before the next "
                "request; run more steps of each chunk, or set meanwhile to still"
            )

    @property
    def run_steps(self) -> int:
        """Steps that are run from one request to the next."""
        return self.n_action_steps + (self.delay_steps if self.meanwhile == "still" else 0)

    @property
    def read_steps(self) -> int:
        """Steps of an answer that may be run, from its first on."""
        return self.n_action_steps + (0 if self.meanwhile == "still" else self.delay_steps)

    def combines(self, horizon: int) -> bool:
        """Whether its ensemble makes other steps of chunks of ``horizon`` steps, since one begins before the last has ended."""
        return self.ensemble is not None and horizon > self.n_action_steps

    def derive(self, **changes: Any) -> Protocol:
        """The same protocol with other values in some plain fields, named after the changes (``standard-n_action_steps8``).

        A change to the value that a field already has is none: the protocol keeps its name.

        Raises:
            ValueError: This protocol is derived itself, so that the name would depend on the way there; or a value is not plain.
        """
        changes = {name: value for name, value in sorted(changes.items()) if self._differs(name, value)}
        if not changes:
            return self
        if self.derived_from:
            raise ValueError(
                f"protocol {self.name!r} is derived already; derive from {self.derived_from!r} with all changes at once"
            )
        if "name" in changes or not all(isinstance(value, (int, str)) for value in changes.values()):
            raise ValueError(f"cannot derive a protocol by {changes!r}; change numbers, words or flags, and give no name")
        suffix = "".join(f"-{name}{value}" for name, value in changes.items())
        if "step_limit" in changes:
            changes["task_limits"] = {}  # the new limit is every task's
        return replace(self, name=self.name + suffix, derived_from=self.name, **changes)

    def _differs(self, name: str, value: Any) -> bool:
        """Whether a field would be another; a step limit is another where any task has another."""
        return getattr(self, name) != value or (name == "step_limit" and any(own != value for own in self.task_limits.values()))


def check_name(kind: str, name: str) -> None:
    """Make sure that a part of an episode's key cannot be taken for two."""
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
        initial_state: The benchmark's own literal seed of the initial state, or its index, never a position in a list.
        repeat: Counts episodes that share all of the above.
        payload: What the adapter needs to build the episode, as plain data: a scene, a goal, a prepared motion.
    """

    suite: str
    protocol: Protocol
    task: str
    variant: str
    initial_state: int
    repeat: int = 0
    payload: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("suite", "task", "variant"):
            check_name(kind, getattr(self, kind))

    @property
    def key(self) -> str:
        """``suite/protocol@version/task/variant/initial_state/repeat``."""
        protocol = f"{self.protocol.name}@{self.protocol.version}"
        return f"{self.suite}/{protocol}/{self.task}/{self.variant}/{self.initial_state}/{self.repeat}"

    @property
    def step_limit(self) -> int:
        """Longest that the episode may be, counted in the protocol's ``limit_unit``."""
        return self.protocol.task_limits.get(self.task, self.protocol.step_limit)

    @property
    def seed(self) -> int:
        """Seed of all that the simulator samples: 32 bits of SHA-256 over suite, task, variant, initial state, repeat."""
        identity = f"{self.suite}/{self.task}/{self.variant}/{self.initial_state}/{self.repeat}"
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")
