"""Embodiments as data: what a robot is, what its actions mean, and what its state vector holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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

    def action_space(self) -> spaces.Box:
        """The legal actions: ``float32[A]`` between the channels' bounds."""
        low = np.array([channel.low for channel in self.channels], dtype=np.float32)
        high = np.array([channel.high for channel in self.channels], dtype=np.float32)
        return spaces.Box(low, high, dtype=np.float32)


def _delta_pose_channels() -> tuple[Channel, ...]:
    """Six normalised end-effector deltas and a gripper: the control convention of robosuite's ``OSC_POSE``."""
    translation = tuple(Channel(name, "normalized", "delta", "base", -1.0, 1.0) for name in ("x", "y", "z"))
    rotation = tuple(
        Channel(name, "normalized", "delta", "base", -1.0, 1.0, rotation="axis_angle")
        for name in ("rotation_x", "rotation_y", "rotation_z")
    )
    gripper = Channel("gripper", "normalized", "absolute", "gripper", -1.0, 1.0, gripper="+1 closes, -1 opens")
    return (*translation, *rotation, gripper)


def _pose_and_fingers(rotation: str) -> tuple[str, ...]:
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


#: The embedded suite's robot: a Panda under robosuite 1.5 ``OSC_POSE`` (robosuite/controllers/config/default/parts/
#: osc_pose.json: an action of 1 is 0.05 m or 0.5 rad a control step). Its rotation is counted from straight down.
TABLETOP_PANDA = Embodiment(
    name="tabletop_panda",
    robot_tag="Franka Panda",
    arms="single arm",
    control_frequency=20.0,
    channels=_delta_pose_channels(),
    state_layout=_pose_and_fingers("axis_angle_from_down"),
    cameras={"ego": "ego", "cam_left_wrist": "robot0_eye_in_hand"},
    statistics_key="tabletop",
)

#: The same robot, whose state also says where the object and the goal of the moment are, seen from the hand.
TABLETOP_PANDA_STATES = replace(
    TABLETOP_PANDA,
    name="tabletop_panda_states",
    state_layout=(
        *TABLETOP_PANDA.state_layout,
        *(f"object_{name}" for name in ("x", "y", "z", "turn_cos", "turn_sin")),
        *(f"goal_{axis}" for axis in "xyz"),
    ),
    statistics_key="tabletop_states",
)

#: LIBERO's robot: a Panda under robosuite 1.4 ``OSC_POSE`` (robosuite/controllers/config/osc_pose.json: an action of 1 is 0.05 m or
#: 0.5 rad a control step) at 20 Hz (LIBERO libero/libero/envs/env_wrapper.py, ``ControlEnv``). The state is what LIBERO's evaluators
#: make of ``robot0_eef_pos``, ``robot0_eef_quat`` and ``robot0_gripper_qpos``; its rotation is the hand's in the world.
LIBERO_PANDA = Embodiment(
    name="libero_panda",
    robot_tag="Franka Panda",  # paper, Table 2; single arm, delta end effector and gripper
    arms="single arm",
    control_frequency=20.0,
    channels=_delta_pose_channels(),
    state_layout=_pose_and_fingers("axis_angle"),
    cameras={"ego": "agentview", "cam_left_wrist": "robot0_eye_in_hand"},
    statistics_key="libero",
)

#: SimplerEnv's robot for the Bridge tasks: a WidowX 250 S at 5 Hz. Steps are BridgeData V2's, as every evaluator of SimplerEnv takes
#: them from the policy (simpler-env/SimplerEnv simpler_env/policies/octo/octo_model.py@4ab7178, ``step``): metres, roll, pitch and yaw,
#: and how far the gripper is open. The simulator has no bounds; these are wider than the data's 1 % and 99 % quantiles
#: (-0.03 to 0.04 m, -0.21 to 0.20 rad). The state is BridgeData's, as GR00T makes it of the simulator's: the hand in the robot's base
#: frame, its roll, pitch and yaw counted from straight down.
WIDOWX_BRIDGE = Embodiment(
    name="widowx_bridge",
    robot_tag="WidowX",
    arms="single arm",
    control_frequency=5.0,
    channels=(
        *(Channel(name, "m", "delta", "base", -0.05, 0.05) for name in ("x", "y", "z")),
        *(
            Channel(name, "rad", "delta", "base", -0.25, 0.25, rotation="euler_xyz")
            for name in ("rotation_roll", "rotation_pitch", "rotation_yaw")
        ),
        Channel("gripper", "share", "absolute", "gripper", 0.0, 1.0, gripper="1 opens, 0 closes"),
    ),
    state_layout=("position_x", "position_y", "position_z", "roll", "pitch", "yaw", "gripper"),
    cameras={"ego": "3rd_view_camera"},
    statistics_key="bridge",
)
