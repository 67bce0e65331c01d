"""SimplerEnv's robot for the Bridge tasks, and the convention in which it is moved."""

from __future__ import annotations

from ..embodiments import Channel, Embodiment

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
