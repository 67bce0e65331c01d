"""What a vla-eval model server announces of its conventions, compared with what an env takes.

Its specs (allenai/vla-evaluation-harness src/vla_eval/specs.py, vla-eval 0.8.0) name a format for each part of an action and of an
observation: delta or absolute, a rotation's representation, a gripper's signs, the order of a state vector. They say nothing of units,
frames, or the control frequency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..envs.embodiments import Embodiment
from .api import PolicyError

#: Formats by which a server says nothing.
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

_MAX_PARTS = 64


@dataclass(frozen=True)
class Spec:
    """One part of an action or observation, as announced: how many numbers (0: not said), and the formats that will do."""

    dims: int
    formats: tuple[str, ...]

    @property
    def says_nothing(self) -> bool:
        """Whether no convention is announced."""
        return all(each in _SILENT for each in self.formats)


@dataclass(frozen=True)
class Announced:
    """What a server's HELLO says.

    Attributes:
        server: Name of the server's class.
        harness: Version of vla-eval that it runs.
        actions: Name of a part of an action to its spec.
        observations: Name of a part of an observation to its spec; ``None`` where the server announces none at all.
        sends_state: Whether it asks for the state vector in its ``observation_params``.
    """

    server: str
    harness: str
    actions: Mapping[str, Spec]
    observations: Mapping[str, Spec] | None
    sends_state: bool

    @property
    def image_names(self) -> list[str]:
        """Names of the images that it announces."""
        return [name for name, spec in (self.observations or {}).items() if _IMAGE_FORMAT in spec.formats]

    @property
    def reads_images(self) -> bool:
        """Whether it reads images; one that is silent does."""
        return self.observations is None or bool(self.image_names)

    @property
    def state(self) -> Spec | None:
        """The spec of the state vector, where there is one."""
        parts = self.observations or {}
        return parts.get("state", parts.get("states"))

    @property
    def reads_state(self) -> bool:
        """Whether it reads the state vector; one that is silent does."""
        return self.observations is None or self.sends_state or self.state is not None


def read_hello(payload: Mapping[str, Any], where: str) -> Announced:
    """The announcement in a server's HELLO, which may come from anyone.

    Args:
        payload: The message's content.
        where: The server's address, for the sentence.

    Raises:
        PolicyError: It is not of the form that vla-eval's servers send.
    """
    params = payload.get("observation_params")
    if not (params is None or isinstance(params, dict)):
        raise PolicyError(f"the vla-eval server at {where} announces observation_params that are no map")
    server, harness = payload.get("model_server", "unnamed"), payload.get("harness_version", "unknown")
    if not (isinstance(server, str) and isinstance(harness, str)):
        raise PolicyError(f"the vla-eval server at {where} announces a model_server or a harness_version that is no text")
    return Announced(
        server=" ".join(server.split())[:80],
        harness=" ".join(harness.split())[:40],
        actions=_specs(payload.get("action_spec"), where) or {},
        observations=_specs(payload.get("observation_spec"), where),
        sends_state=params is not None and params.get("send_state") is True,
    )


def announced_differences(announced: Announced, env: Embodiment) -> list[str]:
    """What the server announces and ``env`` does otherwise, a phrase each; empty where nothing contradicts."""
    found = []
    expected = _action_parts(env)
    for name, spec in announced.actions.items():
        if spec.says_nothing:
            continue
        if name not in expected:
            found.append(f"the server's actions have a part {name!r} ({_listed(spec)}) and the env's are {', '.join(expected)}")
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


def _specs(value: object, where: str) -> dict[str, Spec] | None:
    if value is None:
        return None
    wrong = PolicyError(f"the vla-eval server at {where} announces specs that are not of vla-eval's form")
    if not isinstance(value, dict) or len(value) > _MAX_PARTS:
        raise wrong
    specs: dict[str, Spec] = {}
    for name, spec in value.items():
        if not (isinstance(name, str) and isinstance(spec, dict)):
            raise wrong
        dims, accepts = spec.get("dims"), spec.get("accepts", [])
        accepts = [] if accepts is None else accepts
        formats = [spec.get("format"), *(accepts if isinstance(accepts, list) else [None])]
        if type(dims) is not int or dims < 0 or not all(isinstance(each, str) for each in formats):
            raise wrong
        specs[name[:80]] = Spec(dims, tuple(str(each)[:80] for each in formats))
    return specs or None


def _listed(spec: Spec) -> str:
    return " or ".join(dict.fromkeys(spec.formats))
