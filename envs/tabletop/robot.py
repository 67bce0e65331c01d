"""The embedded suites' robot, and the convention in which it is moved."""

from __future__ import annotations

from dataclasses import replace

from ..embodiments import Embodiment, delta_pose_channels, pose_and_fingers

#: The embedded suite's robot: a Panda under robosuite 1.5 ``OSC_POSE`` (robosuite/controllers/config/default/parts/
#: osc_pose.json: an action of 1 is 0.05 m or 0.5 rad a control step). Its rotation is counted from straight down.
TABLETOP_PANDA = Embodiment(
    name="tabletop_panda",
    robot_tag="Franka Panda",
    arms="single arm",
    control_frequency=20.0,
    channels=delta_pose_channels(),
    state_layout=pose_and_fingers("axis_angle_from_down"),
    cameras={"ego": "ego", "cam_left_wrist": "robot0_eye_in_hand"},
    statistics_key="tabletop",
)

#: The same robot, whose state also says where the current object and goal are, seen from the hand.
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
