"""Embodiments as data: what a robot is, what its actions mean, and what its state vector holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np
from gymnasium import spaces


@dataclass(frozen=True)
class Channel:
    """One number of an action.

    Attributes:
        name: What the number moves, unique within the embodiment (``x``, ``roll``, ``gripper``).
        unit: Unit of the raw number that the env takes (``m``, ``rad``, ``normalized`` for a controller's -1 to 1).
        kind: ``delta`` or ``absolute``.
        frame: Frame in which the number is expressed (``base``, ``gripper``, ``joint``).
        low: Smallest legal value.
        high: Largest legal value.
        rotation: Rotation representation of a rotation channel (``axis_angle``, ``euler_xyz``), else ``None``.
        gripper: Convention of a gripper channel (``+1 closes``), else ``None``.
    """

    name: str
    unit: str
    kind: str
    frame: str
    low: float
    high: float
    rotation: Optional[str] = None
    gripper: Optional[str] = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"channel {self.name!r} goes from {self.low} to {self.high}, expected a low number and a high one")


@dataclass(frozen=True)
class Embodiment:
    """A robot together with its control convention (paper, sections 2.3 and 3.2; Table 2).

    Attributes:
        name: Key of the embodiment, unique in the project.
        robot_tag: The robot's name in the prompt template (paper, section 2.3).
        arms: ``single arm`` or ``dual arms``, the two wordings of the template; ``none`` for a robot that only moves about, whose
            prompt states waypoints instead of control actions (paper, section 2.4).
        control_frequency: Control steps a second, in Hz.
        channels: The ``A`` action channels, in the order of an action.
        state_layout: Names of the ``P`` numbers of the state vector, in order.
        cameras: View tag to the robot's camera that carries it. Tags are the paper's: ``ego``, ``cam_left_wrist``,
            ``cam_right_wrist``.
        statistics_key: Name of the data set whose quantiles normalise the actions (paper, equation 5).
        waist: Whether the robot has a controlled waist.
        mobile_base: Whether the robot has a mobile base.
    """

    name: str
    robot_tag: str
    arms: str
    control_frequency: float
    channels: tuple[Channel, ...]
    state_layout: tuple[str, ...]
    cameras: dict[str, str]
    statistics_key: str
    waist: bool = False
    mobile_base: bool = False

    def __post_init__(self) -> None:
        if self.arms not in ("single arm", "dual arms", "none"):
            raise ValueError(f"arms is {self.arms!r}, expected 'single arm', 'dual arms' or 'none'")
        if not math.isfinite(self.control_frequency):
            raise ValueError(f"control_frequency is {self.control_frequency}, expected a finite number")
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError(f"channel names of {self.name!r} repeat: {names}")

    @property
    def action_size(self) -> int:
        """``A``, the number of action channels."""
        return len(self.channels)

    def still(self, state: np.ndarray) -> np.ndarray:
        """The action that stays at ``state``, ``[P]``: ``float32[A]``, zeros, and the state's number in an absolute channel."""
        known = dict(zip(self.state_layout, state))
        return np.array([known.get(c.name, 0.0) if c.kind == "absolute" else 0.0 for c in self.channels], np.float32)

    def action_space(self) -> spaces.Box:
        """The legal actions: ``float32[A]`` between the channels' bounds."""
        low = np.array([channel.low for channel in self.channels], dtype=np.float32)
        high = np.array([channel.high for channel in self.channels], dtype=np.float32)
        return spaces.Box(low, high, dtype=np.float32)


def delta_pose_channels() -> tuple[Channel, ...]:
    """Six normalised end-effector deltas and a gripper: the control convention of robosuite's ``OSC_POSE``."""
    translation = tuple(Channel(name, "normalized", "delta", "base", -1.0, 1.0) for name in ("x", "y", "z"))
    rotation = tuple(
        Channel(name, "normalized", "delta", "base", -1.0, 1.0, rotation="axis_angle")
        for name in ("rotation_x", "rotation_y", "rotation_z")
    )
    gripper = Channel("gripper", "normalized", "absolute", "gripper", -1.0, 1.0, gripper="+1 closes, -1 opens")
    return (*translation, *rotation, gripper)


def pose_and_fingers(rotation: str) -> tuple[str, ...]:
    """Position of the end effector (m), its rotation as an axis times an angle (rad), and where the two fingers are (m).

    ``rotation`` names the three numbers by where the rotation is counted from, since a policy that reads one and is shown the other
    sees the hand turned by half a turn.
    """
    return (
        *(f"position_{axis}" for axis in "xyz"),
        *(f"{rotation}_{axis}" for axis in "xyz"),
        "finger_left",
        "finger_right",
    )
