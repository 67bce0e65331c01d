"""A remote policy behind vla-eval's protocol: ``vlarig sweep SUITE --policy vla-eval:ws://HOST:PORT``.

Its servers (allenai/vla-evaluation-harness src/vla_eval/model_servers/predict.py, vla-eval 0.8.0) hand out their chunks one step an
observation, so by default each step is a request. One that was started with ``--args.chunk_size=null`` answers with whole
chunks; ``horizon=STEPS`` then gives their number of steps.

A server announces its conventions by specs (src/vla_eval/specs.py, the same version), which name a format for each part of an action
and of an observation: delta or absolute, a rotation's representation, a gripper's signs, the order of a state vector. They do not cover
units, frames, or the control frequency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ...envs.api import Needs
from ...envs.embodiments import Embodiment
from ...envs.untrusted import first_problem, one_line
from ..api import Policy, PolicyError, Reply, Request
from ..conventions import ImageFit, find_embodiment, fit_image, refuse_differences
from ..registry import ImageSize, Options, Seconds, Views, read_options
from .vla_eval_sessions import Sessions, pack_payload
from .wire import refuse_secrets

#: Formats that announce no convention.
_SILENT = ("raw", "")
_IMAGE_FORMAT = "rgb_hwc_uint8"

#: A gripper's convention to the formats that mean it. ``continuous_01`` does not say which end is open.
_GRIPPERS = {
    "+1 closes, -1 opens": ("binary_close_positive",),
    "+1 opens, -1 closes": ("binary_close_negative",),
    "1 closes, 0 opens": ("binary_close_01", "continuous_01"),
    "1 opens, 0 closes": ("continuous_01",),
}

#: Names of neighbours in a state vector to how a state's format calls them.
_STATE_PARTS = (
    (("position_x", "position_y", "position_z"), "eef_pos3"),
    (("axis_angle_x", "axis_angle_y", "axis_angle_z"), "axisangle3"),
    (("axis_angle_from_down_x", "axis_angle_from_down_y", "axis_angle_from_down_z"), "axisangle3"),
    (("roll", "pitch", "yaw"), "euler3"),
    (("finger_left", "finger_right"), "gripper2"),
    (("gripper",), "gripper1"),
)


class Spec(BaseModel, frozen=True, strict=True):
    """One part of an action or observation, as announced.

    Attributes:
        dims: How many numbers; 0 where that is not given.
        accepts: Other formats that will do.
    """

    dims: int = Field(ge=0)
    format: str
    accepts: list[str] | None = None

    @property
    def formats(self) -> dict[str, None]:
        """The formats that will do, each once, in order."""
        return dict.fromkeys((self.format, *(self.accepts or ())))

    @property
    def says_nothing(self) -> bool:
        """Whether no convention is announced."""
        return all(each in _SILENT for each in self.formats)


_Specs = Annotated[dict[str, Spec], Field(max_length=64)]


class Announced(BaseModel, frozen=True, strict=True):
    """The content of a server's HELLO.

    Attributes:
        model_server: Name of the server's class.
        harness_version: Version of vla-eval that it runs.
        action_spec: Name of a part of an action to its spec.
        observation_spec: Name of a part of an observation to its spec; none where the server announces none at all.
        observation_params: What it requests of the benchmark.
    """

    model_server: str = "unnamed"
    harness_version: str = "unknown"
    action_spec: _Specs | None = None
    observation_spec: _Specs | None = None
    observation_params: dict[str, Any] | None = None

    @property
    def image_names(self) -> list[str]:
        return [one_line(name) for name, spec in (self.observation_spec or {}).items() if _IMAGE_FORMAT in spec.formats]

    @property
    def reads_images(self) -> bool:
        """Whether it reads images; one that is silent does."""
        return not self.observation_spec or bool(self.image_names)

    @property
    def state(self) -> Spec | None:
        """The spec of the state vector, where there is one."""
        parts = self.observation_spec or {}
        return parts.get("state", parts.get("states"))

    @property
    def reads_state(self) -> bool:
        """Whether it reads the state vector; one that is silent does."""
        sends_state = (self.observation_params or {}).get("send_state") is True
        return not self.observation_spec or sends_state or self.state is not None


def read_hello(payload: Mapping[str, Any], where: str) -> Announced:
    """The announcement in a server's HELLO, which is not trusted.

    Args:
        payload: The message's content.
        where: The server's address, for the sentence.
    """
    try:
        return Announced.model_validate(payload)
    except ValidationError as error:
        what = first_problem(error)
        raise PolicyError(f"the vla-eval server at {where} announces what is not of vla-eval's form: {what}") from None


def announced_differences(announced: Announced, env: Embodiment) -> list[str]:
    """What the server announces and ``env`` does otherwise, a phrase each; empty where nothing contradicts."""
    found = []
    expected = _action_parts(env)
    for name, spec in (announced.action_spec or {}).items():
        if spec.says_nothing:
            continue
        if name not in expected:
            part = f"the server's actions have a part {one_line(name)!r} ({_listed(spec)})"
            found.append(f"{part} and the env's are {', '.join(expected)}")
            continue
        dims, formats = expected[name]
        if spec.dims not in (0, dims):
            found.append(f"the {name} has {spec.dims} numbers for the server and {dims} for the env")
        if not set(spec.formats) & set(formats):
            found.append(f"the {name} is {_listed(spec)} for the server and {' or '.join(formats)} for the env")
    state = announced.state
    if state is not None and not state.says_nothing:
        given, size = state_format(env), len(env.state_layout)
        if given not in state.formats:
            found.append(f"the state is {_listed(state)} for the server and {given or ', '.join(env.state_layout)} for the env")
        elif state.dims not in (0, size):
            found.append(f"the state has {state.dims} numbers for the server and {size} for the env")
    return found


def state_format(embodiment: Embodiment) -> str | None:
    """The embodiment's state vector as vla-eval would name its format; ``None`` where it has no name for it."""
    layout, parts = list(embodiment.state_layout), []
    while layout:
        for names, part in _STATE_PARTS:
            if tuple(layout[: len(names)]) == names:
                parts.append(part)
                del layout[: len(names)]
                break
        else:
            return None
    return "_".join(parts)


def _action_parts(env: Embodiment) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Part of an action to how many numbers it has and to the formats that mean what ``env`` does."""
    parts: dict[str, tuple[int, tuple[str, ...]]] = {}
    grippers = [each for each in env.channels if each.gripper is not None]
    rotations = [each for each in env.channels if each.rotation is not None]
    joints = [each for each in env.channels if each.frame == "joint" and each.gripper is None]
    rest = [each for each in env.channels if each not in (*grippers, *rotations, *joints)]
    if rest:
        parts["position"] = len(rest), tuple(sorted({f"{each.kind}_xyz" for each in rest}))
    if rotations:
        parts["rotation"] = len(rotations), tuple(sorted({str(each.rotation) for each in rotations}))
    if joints:
        kinds = {"delta": "joint_delta_pos", "absolute": "joint_positions"}
        parts["joints"] = len(joints), tuple(sorted({kinds[each.kind] for each in joints}))
    if grippers:
        formats = {name for each in grippers for name in _GRIPPERS.get(str(each.gripper), (str(each.gripper),))}
        parts["gripper"] = len(grippers), tuple(sorted(formats))
    return parts


def _listed(spec: Spec) -> str:
    return one_line(" or ".join(spec.formats))


class VlaEvalOptions(Options):
    """Options of the remote policy, given as ``--policy-options NAME=VALUE``."""

    convention: str | None = None
    """the embodiment that the server's policy moves: its name, or a JSON file with one"""
    images: Views | None = None
    """VIEW:NAME,..., the server's name for each view that it is shown"""
    image_size: ImageSize | None = None
    """224 or HEIGHTxWIDTH; as the env shows them where it is left out"""
    image_fit: ImageFit = "pad"
    """how an image gets that size: pad, stretch or crop"""
    state_key: Annotated[str, Field(min_length=1)] = "states"
    """the server's name for the state vector"""
    horizon: Annotated[int, Field(ge=1, le=4096)] = 1
    """steps of each answer"""
    announced: Literal["checked", "ignored"] = "checked"
    """ignored where the server announces conventions that are not so"""
    revision: str | None = None
    """names the checkpoint behind the server, which announces none"""
    timeout: Seconds = 120.0
    """seconds that an answer may take"""
    connect_timeout: Seconds = 20.0
    """seconds that a connection may take"""


class VlaEvalPolicy(Policy):
    """Plays what a vla-eval model server answers: a connection for each env, all with requests at once, so that the server can batch.

    The server announces some of its conventions (a rotation's representation, a gripper's signs), and one that contradicts the env's
    stops the run. It cannot announce units, frames, or which of its images is which view, so the user declares them: silence stops the
    run too.

    Args:
        argument: Address of the server, ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        options: What :class:`VlaEvalOptions` names.
    """

    name = "vla-eval"

    transport_options = frozenset({"timeout", "connect_timeout"})
    """Options that change no answer."""

    def __init__(self, argument: str, **options: Any) -> None:
        self._options = read_options(VlaEvalOptions, options, f"the policy {self.name!r}")
        refuse_secrets(argument, self.name)
        if not argument.startswith(("ws://", "wss://")):
            raise PolicyError(f"{argument!r} is no address of a model server; write vla-eval:ws://HOST:PORT")
        self._address = argument
        self._sessions = Sessions(argument, self._options.timeout, self._options.connect_timeout)
        try:
            self._announced = read_hello(self._sessions.hello, argument)
            self._embodiment = self._declared()
        except BaseException:
            self._sessions.close()
            raise
        self.embodiments = (self._embodiment,)
        self._views = self._options.images or {}
        self.needs = Needs(images=self._announced.reads_images or bool(self._views))
        self.reads_state = self._announced.reads_state
        self.horizon = self._options.horizon
        digest = hashlib.sha256(pack_payload(self._sessions.hello)).hexdigest()[:8]  # the declared revision is beside it
        server, version = one_line(self._announced.model_server)[:80], one_line(self._announced.harness_version)[:40]
        self.revision = f"{self._options.revision} {server}-{version}-{digest}"

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, self._embodiment, embodiment, self.reads_state)
        for view in self._views:
            if view not in embodiment.cameras:
                raise PolicyError(
                    f"images={view}:{self._views[view]} names a view that {embodiment.name} does not have; "
                    f"it has {', '.join(embodiment.cameras)}"
                )
        found = announced_differences(self._announced, embodiment) if self._options.announced == "checked" else []
        if found:
            raise PolicyError(
                f"the vla-eval server at {self._address} does not fit suite {suite!r} ({embodiment.name}): {'; '.join(found)} "
                "(--policy-options announced=ignored where what it announces is not so)"
            )

    def strict(self) -> None:
        """Refuse: a client cannot make such a server compute strictly."""
        raise PolicyError(f"the vla-eval server at {self._address} cannot be made to compute strictly; leave --strict out")

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        answers = self._sessions.ask(requests, [self._observation(request) for request in requests])
        return [Reply(self._actions(answer)) for answer in answers]

    def close(self) -> None:
        self._sessions.close()

    def _declared(self) -> Embodiment:
        missing = []
        if self._options.convention is None:
            missing.append("convention=EMBODIMENT (such as libero_panda, or a JSON file)")
        if self._options.images is None and self._announced.reads_images:
            names = self._announced.image_names
            known = f"; it announces {', '.join(names)}" if names else ""
            missing.append(f"images=VIEW:NAME,... (such as ego:agentview{known})")
        if self._options.revision is None:
            missing.append("revision=NAME (of the checkpoint, so that a run is not resumed with another)")
        if missing or self._options.convention is None:
            raise PolicyError(
                f"the vla-eval server at {self._address} does not say all that its numbers mean, or whose they are; declare it: "
                f"--policy-options {' '.join(missing)}"
            )
        return find_embodiment(self._options.convention)

    def _observation(self, request: Request) -> dict[str, Any]:
        seen = request.observation
        observation: dict[str, Any] = {"images": self._shown(request), "task_description": seen["instruction"]}
        if self.reads_state:
            observation[self._options.state_key] = np.asarray(seen["state"], np.float32)
        return observation

    def _shown(self, request: Request) -> dict[str, np.ndarray]:
        images, shown = request.observation["images"], {}
        for view, name in self._views.items():
            if view not in images:
                raise PolicyError(
                    f"images={view}:{name} names a view that the protocol does not show; it shows {', '.join(images) or 'none'}"
                )
            image = images[view][-1]
            shown[name] = (
                image
                if self._options.image_size is None
                else fit_image(image, *self._options.image_size, self._options.image_fit)
            )
        return shown

    def _actions(self, payload: dict[str, Any]) -> np.ndarray:
        """The steps in an answer, ``float32[H, A]``."""
        actions = payload.get("actions", payload.get("action"))
        try:
            steps = np.asarray(actions, np.float32)
        except (TypeError, ValueError):
            steps = np.zeros(())
        if steps.ndim not in (1, 2):
            raise PolicyError(
                f"the vla-eval server at {self._address} answered without an array 'actions' of one or more steps"
            )
        steps = steps[None] if steps.ndim == 1 else steps
        if len(steps) != self.horizon:
            hint = f"declare horizon={len(steps)}"
            if len(steps) == 1:
                hint = "start it with --args.chunk_size=null for whole chunks, or leave horizon out"
            raise PolicyError(
                f"the vla-eval server at {self._address} answers with {len(steps)} step{'s' * (len(steps) != 1)} at a time and "
                f"horizon is {self.horizon}; {hint}"
            )
        return steps
