"""LIBERO's robot, and the convention in which it is moved."""

from __future__ import annotations

from ..embodiments import Embodiment, delta_pose_channels, pose_and_fingers

#: LIBERO's robot: a Panda under robosuite 1.4 ``OSC_POSE`` (robosuite/controllers/config/osc_pose.json: an action of 1 is 0.05 m or
#: 0.5 rad a control step) at 20 Hz (LIBERO libero/libero/envs/env_wrapper.py, ``ControlEnv``). The state is what LIBERO's evaluators
#: make of ``robot0_eef_pos``, ``robot0_eef_quat`` and ``robot0_gripper_qpos``; its rotation is the hand's in the world.
LIBERO_PANDA = Embodiment(
    name="libero_panda",
    robot_tag="Franka Panda",  # paper, Table 2; single arm, delta end effector and gripper
    arms="single arm",
    control_frequency=20.0,
    channels=delta_pose_channels(),
    state_layout=pose_and_fingers("axis_angle"),
    cameras={"ego": "agentview", "cam_left_wrist": "robot0_eye_in_hand"},
    statistics_key="libero",
)
