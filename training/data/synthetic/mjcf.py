"""An arm and the things around it as a MuJoCo model, so that trajectories can be looked at in another program than made them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from .arms import Arm
from .collision import Collisions
from .kinematics import quaternion_of, rotation_of

#: A thing's number in names; capsules count from 0 too.
_THING = "thing"


def mjcf(arm: Arm, things: Sequence[np.ndarray] = ()) -> str:
    """The MJCF text of an arm on a table.

    Its joints are hinges with the arm's ranges, its shapes the capsules; those pairs of which :class:`~.collision.Collisions` says that
    they could touch, and no others, are contact pairs, as are the capsules with the table and with things. A thing is a box, or a
    sphere where it has no extent; a box is grown by its radius and keeps its corners, so it is a little larger than ours.

    Args:
        arm: The arm.
        things: ``[9]`` each, see :data:`~.collision.THING`; those with a negative radius are left out.
    """
    origins = (*arm.origins, arm.tool)
    body, tail = _capsules(arm, 0), ""
    for index, origin in enumerate(origins):
        quaternion = quaternion_of(rotation_of(origin))
        name = f"link{index + 1}" if index < arm.joints else "tool"
        body += f'<body name="{name}" pos="{_numbers(origin[:3])}" quat="{_numbers(quaternion.tolist())}">'
        body += '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'
        if index < arm.joints:
            body += (
                f'<joint name="joint{index + 1}" axis="0 0 1" range="{arm.lower[index]} {arm.upper[index]}" limited="true"/>'
            )
        else:
            body += '<site name="tool"/>'
        body += _capsules(arm, index + 1)
        tail += "</body>"
    pairs = [(f"capsule{first}", f"capsule{second}") for first, second in _pairs(arm)]
    table = [index for index, capsule in enumerate(arm.capsules) if capsule.link > 1]
    pairs += [(f"capsule{index}", "table") for index in table]
    scene = ""
    for number, thing in enumerate(things):
        if thing[8] >= 0:
            scene += _thing(number, thing)
            pairs += [(f"capsule{index}", f"{_THING}{number}") for index in range(len(arm.capsules))]
    contacts = "".join(f'<pair geom1="{first}" geom2="{second}"/>' for first, second in pairs)
    return (
        f'<mujoco model="{arm.name}"><compiler angle="radian"/><option gravity="0 0 0"/>'
        '<default><geom contype="0" conaffinity="0" rgba="0.75 0.77 0.8 1"/></default>'
        '<worldbody><light pos="1 -1 2" dir="-0.5 0.5 -1"/>'
        '<geom name="table" type="plane" size="1.5 1.5 0.1" rgba="0.55 0.5 0.45 1"/>'
        f"{scene}{body}{tail}</worldbody><contact>{contacts}</contact></mujoco>"
    )


@cache
def _pairs(arm: Arm) -> list[tuple[int, int]]:
    """The capsules that could touch each other."""
    return [(first, second) for first, second in Collisions.of(arm).pairs.tolist()]


def _capsules(arm: Arm, link: int) -> str:
    """The geoms of a link."""
    text = ""
    for index, capsule in enumerate(arm.capsules):
        if capsule.link == link:
            ends = torch.tensor([capsule.start, capsule.end], dtype=torch.float64)
            if float((ends[1] - ends[0]).norm()) < 1e-6:
                ends[1, 2] += 1e-6
            text += f'<geom name="capsule{index}" type="capsule" size="{capsule.radius}" fromto="{_numbers(ends.flatten().tolist())}"/>'
    return text


def _thing(number: int, thing: np.ndarray) -> str:
    """The geom of a thing."""
    place, half, radius = thing[:3], thing[3:6], thing[8]
    if not half.any():
        return f'<geom name="{_THING}{number}" type="sphere" size="{radius}" pos="{_numbers(place)}" rgba="0.85 0.4 0.3 1"/>'
    angle = float(np.arctan2(thing[7], thing[6])) / 2
    turn = _numbers((np.cos(angle), 0, 0, np.sin(angle)))
    size = _numbers(half + radius)
    return (
        f'<geom name="{_THING}{number}" type="box" size="{size}" pos="{_numbers(place)}" quat="{turn}" rgba="0.85 0.4 0.3 1"/>'
    )


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{float(value):.9g}" for value in values)
