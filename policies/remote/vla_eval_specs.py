"""A vla-eval model server's announced conventions, compared with an env's.

Its specs (allenai/vla-evaluation-harness src/vla_eval/specs.py, vla-eval 0.8.0) name a format for each part of an action and of an
observation: delta or absolute, a rotation's representation, a gripper's signs, the order of a state vector. They do not cover units,
frames, or the control frequency.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from ...envs.embodiments import Embodiment
from ...envs.untrusted import one_line
from ...envs.validation import first_problem
from ..api import PolicyError

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
