"""Actions for data that have none: finite differences of the states (paper, section 3.2.1, "Data cleaning").

Shapes: ``J`` steps, ``P`` numbers of the state, ``A`` action channels.
"""

from __future__ import annotations

import re

import numpy as np

from ...envs.embodiments import Channel, Embodiment
from ...policies.qwen_vla.poses import axis_angle, euler_matrix, rotation_matrix
from .errors import DataError


def pseudo_actions(states: np.ndarray, dt: float, embodiment: Embodiment) -> np.ndarray:
    """The actions that lead from each state to the next, ``float64[J - 1, A]``.

    An absolute channel takes the next state's number of its own name. A delta of position takes the difference; a delta of rotation
    the turn from the one to the other about the base's axes (in the frame ``gripper``: about the hand's), as an axis times an angle or
    as roll, pitch and yaw about fixed axes. States at other times than the control steps' are scaled to one control step.

    Args:
        states: ``[J, P]`` in the embodiment's ``state_layout``.
        dt: Seconds from one state to the next.
        embodiment: The robot whose actions they are to be.
    """
    states = np.asarray(states, np.float64)
    if states.ndim != 2 or states.shape[1] != len(embodiment.state_layout) or len(states) < 2:
        raise DataError(
            f"states of {embodiment.name} have the shape {states.shape}, expected two or more of {len(embodiment.state_layout)}"
        )
    if not dt > 0:
        raise DataError(f"states of {embodiment.name} are {dt} s apart, expected a positive time")
    scale = 1 / (embodiment.control_frequency * dt)
    columns = {name: index for index, name in enumerate(embodiment.state_layout)}
    actions, done = np.zeros((len(states) - 1, embodiment.action_size)), set[int]()
    for index, channel in enumerate(embodiment.channels):
        if index in done:
            continue
        if channel.kind == "delta" and (channel.unit not in ("m", "rad") or channel.frame not in ("base", "gripper", "joint")):
            raise DataError(
                f"{embodiment.name}: channel {channel.name} is a delta in {channel.unit!r} and the frame {channel.frame!r}, "
                "which no state tells; give actions"
            )
        if channel.kind == "delta" and channel.rotation:
            three = embodiment.channels[index : index + 3]
            if [each.rotation for each in three] != [channel.rotation] * 3:
                raise DataError(f"{embodiment.name}: the rotation at channel {channel.name} has not three channels in a row")
            actions[:, index : index + 3] = _turns(_rotations(states, three, columns, embodiment), channel, scale)
            done |= {index, index + 1, index + 2}
        elif channel.kind == "delta" and channel.frame == "gripper":
            raise DataError(f"{embodiment.name}: channel {channel.name} is a displacement in the hand's frame; give actions")
        else:
            values = states[:, _column(channel, columns, embodiment)]
            actions[:, index] = np.diff(values) * scale if channel.kind == "delta" else values[1:]
    return actions


def _column(channel: Channel, columns: dict[str, int], embodiment: Embodiment) -> int:
    """The state's number of the channel's name, or of its position: ``x`` is ``position_x``."""
    for name in (channel.name, re.sub(r"(^|_)([xyz])$", r"\1position_\2", channel.name)):
        if name in columns:
            return columns[name]
    raise DataError(f"{embodiment.name}: the state has no {channel.name}, it has {', '.join(columns)}; give actions")


def _rotations(states: np.ndarray, three: tuple[Channel, ...], columns: dict[str, int], embodiment: Embodiment) -> np.ndarray:
    """The hand's rotation at each state, ``float64[J, 3, 3]``, from axis-angle or roll, pitch and yaw, by the numbers' names."""
    arm = re.sub(r"rotation_\w+$", "", three[0].name)
    for names, euler in (
        ([each.name for each in three], three[0].rotation == "euler_xyz"),
        ([f"{arm}{name}" for name in ("roll", "pitch", "yaw")], True),
        ([f"{arm}axis_angle_{axis}" for axis in "xyz"], False),
        ([f"{arm}axis_angle_from_down_{axis}" for axis in "xyz"], False),
    ):
        if all(name in columns for name in names):
            numbers = states[:, [columns[name] for name in names]]
            return euler_matrix(numbers) if euler else rotation_matrix(numbers)
    raise DataError(
        f"{embodiment.name}: the state has no rotation for {three[0].name}, it has {', '.join(columns)}; give actions"
    )


def _turns(rotations: np.ndarray, channel: Channel, scale: float) -> np.ndarray:
    before, after = rotations[:-1], rotations[1:]
    inverse = np.swapaxes(before, -1, -2)
    turns = scale * axis_angle(inverse @ after if channel.frame == "gripper" else after @ inverse)
    return turns if channel.rotation == "axis_angle" else euler_angles(rotation_matrix(turns))


def euler_angles(rotation: np.ndarray) -> np.ndarray:
    """The inverse of :func:`euler_matrix`, with a pitch in -pi/2 to pi/2."""
    r = np.asarray(rotation, np.float64)
    roll, yaw = np.arctan2(r[..., 2, 1], r[..., 2, 2]), np.arctan2(r[..., 1, 0], r[..., 0, 0])
    return np.stack((roll, np.arcsin(np.clip(-r[..., 2, 0], -1, 1)), yaw), axis=-1)
