"""The robots of the paper as data: those of Table 2, of its language-action data, of its benchmarks, and a car.

Table 2 prints a name, the number of arms and the action types; ``"Δ EEF"`` becomes six channels an arm, ``"Abs Joint"`` one a
joint, ``"G"`` one a hand, and ``"DH"`` one for each driven joint of a dexterous hand. Each action type is an embodiment of its own,
because the prompt and the statistics are chosen by it. Everything else is ours, for these reasons:

* **Robot tags** are the names of Table 2. The prompt is "the sole interface" that gives the model the control convention (section
  1), yet the template has no other place for it. So where a robot has several action types, the first one that Table 2 lists has the
  plain name, and the others say what they are behind it: ``Mobile ALOHA (joint control)``. No two conventions share a prompt.
* **Modifiers** describe the platform, not the channels ("the current platform", section 2.3): a robot that is on a mobile base
  counts as having one, although Table 2 lists no action type that moves it.
* **Control frequencies** are those of a public data set of the robot, since a prompt's frequency is "the dataset's original"
  (section 2.3); each is named below.
* **Cameras.** ``ego`` is the robot's own head camera, or the one camera that sees the whole scene where it has no head;
  ``cam_third_person`` is a scene camera besides it. A single arm's wrist camera is ``cam_left_wrist``. Robots of
  data without images have none.
* **Bounds** of robots without an adapter are wide; nothing but :meth:`~vlarig.envs.embodiments.Embodiment.action_space` reads them.
"""

from __future__ import annotations

import math

from ...envs.embodiments import Channel, Embodiment
from ...envs.simpler.robot import WIDOWX_BRIDGE

_SIDES = ("left", "right")


def _deltas(arm: str = "") -> tuple[Channel, ...]:
    """Six changes of an end effector's pose in the robot's base frame: metres, and roll, pitch and yaw in radians."""
    return (
        *(Channel(f"{arm}{name}", "m", "delta", "base", -0.5, 0.5) for name in ("x", "y", "z")),
        *(
            Channel(f"{arm}{name}", "rad", "delta", "base", -math.pi, math.pi, rotation="euler_xyz")
            for name in ("rotation_roll", "rotation_pitch", "rotation_yaw")
        ),
    )


def _joints(part: str, count: int) -> tuple[Channel, ...]:
    """Angles of ``count`` joints, in radians, from the base outwards."""
    limit = 2 * math.pi
    return tuple(Channel(f"{part}joint_{index}", "rad", "absolute", "joint", -limit, limit) for index in range(1, count + 1))


def _gripper(arm: str = "") -> tuple[Channel, ...]:
    """How far a gripper is open."""
    return (Channel(f"{arm}gripper", "share", "absolute", "gripper", 0.0, 1.0, gripper="1 opens, 0 closes"),)


def _dual_deltas() -> tuple[Channel, ...]:
    """Both arms' deltas, each followed by its gripper."""
    return tuple(channel for side in _SIDES for channel in (*_deltas(f"{side}_"), *_gripper(f"{side}_")))


def _dual_joints(count: int) -> tuple[Channel, ...]:
    """Both arms' joints, each arm's followed by its gripper."""
    return tuple(channel for side in _SIDES for channel in (*_joints(f"{side}_", count), *_gripper(f"{side}_")))


def _dual_joints_and_hands(arm: int, hand: int) -> tuple[Channel, ...]:
    """Both arms' joints, then both hands'."""
    arms = tuple(channel for side in _SIDES for channel in _joints(f"{side}_", arm))
    return (*arms, *(channel for side in _SIDES for channel in _joints(f"{side}_hand_", hand)))


def _manipulator(
    name: str,
    robot_tag: str,
    control_frequency: float,
    channels: tuple[Channel, ...],
    cameras: dict[str, str],
    *,
    arms: str = "dual arms",
    waist: bool = False,
    mobile_base: bool = False,
) -> Embodiment:
    """An embodiment whose statistics are its own, and whose state holds what the channels move: of an end effector, its pose."""
    return Embodiment(
        name=name,
        robot_tag=robot_tag,
        arms=arms,
        control_frequency=control_frequency,
        channels=channels,
        state_layout=tuple(channel.name for channel in channels),
        cameras=cameras,
        statistics_key=name,
        waist=waist,
        mobile_base=mobile_base,
    )


#: RT-1's robot, whose policy runs at 3 Hz (arXiv 2212.06817); the camera is on its head.
GOOGLE_ROBOT = _manipulator(
    "google_robot", "Google Robot", 3.0, (*_deltas(), *_gripper()), {"ego": "image"}, arms="single arm", mobile_base=True
)

#: DROID's robot at 15 Hz, seven joints and a Robotiq gripper (arXiv 2403.12945), with two outer cameras.
_DROID_CAMERAS = {
    "ego": "exterior_image_1_left",
    "cam_left_wrist": "wrist_image_left",
    "cam_third_person": "exterior_image_2_left",
}
FRANKA_EEF = _manipulator("franka_eef", "Franka Panda", 15.0, (*_deltas(), *_gripper()), _DROID_CAMERAS, arms="single arm")
FRANKA_JOINT = _manipulator(
    "franka_joint", "Franka Panda (joint control)", 15.0, (*_joints("", 7), *_gripper()), _DROID_CAMERAS, arms="single arm"
)

#: RoboMIND's two Franka arms (``franka_fr3_dual``: 12 numbers of end effectors, 16 of joints and grippers). It prints no rate: 30 Hz
#: is that of its cameras. The direction of its side cameras is not published, so they carry no tag.
_FRANKA_DUAL_CAMERAS = {"ego": "camera_top", "cam_third_person": "camera_front"}
FRANKA_DUAL_EEF = _manipulator("franka_dual_eef", "Franka Panda", 30.0, _dual_deltas(), _FRANKA_DUAL_CAMERAS)
FRANKA_DUAL_JOINT = _manipulator(
    "franka_dual_joint", "Franka Panda (joint control)", 30.0, _dual_joints(7), _FRANKA_DUAL_CAMERAS
)

#: A pair of ARX X5 arms with six joints each; public recordings of it (LeRobot's ``robot_type: arx_x5``) run at 30 Hz.
ARX5_EEF = _manipulator(
    "arx5_eef", "ARX5", 30.0, _dual_deltas(), {"ego": "head", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"}
)

#: NVIDIA's simulated GR-1 data run at 20 Hz (robocasa/robocasa-gr1-tabletop-tasks@4840e67, ``control_freq``). Table 2 lists deltas
#: and a gripper, so this has 14 channels; the benchmark of the same robot is :data:`~vlarig.envs.robocasa.robot.ROBOCASA_GR1`.
GR1_EEF = _manipulator("gr1_eef", "Fourier GR-1", 20.0, _dual_deltas(), {"ego": "egoview"}, waist=True)

#: Two six-joint arms on a wheeled base, recorded at 50 Hz by its authors (arXiv 2401.02117). Table 2
#: lists arms and grippers alone: 14 channels, the base is not commanded.
_ALOHA_CAMERAS = {"ego": "cam_high", "cam_left_wrist": "cam_left_wrist", "cam_right_wrist": "cam_right_wrist"}
MOBILE_ALOHA_EEF = _manipulator("mobile_aloha_eef", "Mobile ALOHA", 50.0, _dual_deltas(), _ALOHA_CAMERAS, mobile_base=True)
MOBILE_ALOHA_JOINT = _manipulator(
    "mobile_aloha_joint", "Mobile ALOHA (joint control)", 50.0, _dual_joints(6), _ALOHA_CAMERAS, mobile_base=True
)

#: AgiBot World's robot: 30 Hz, seven joints an arm, a gripper or a hand of six driven joints at each, a waist that tilts and lifts,
#: and a wheeled base (agibot-world/AgiBotWorld-Alpha, README).
_AGIBOT_CAMERAS = {"ego": "head", "cam_left_wrist": "hand_left", "cam_right_wrist": "hand_right"}
AGIBOT_A2D_GRIPPER = _manipulator(
    "agibot_a2d_gripper", "AgiBot A2-D", 30.0, _dual_joints(7), _AGIBOT_CAMERAS, waist=True, mobile_base=True
)
AGIBOT_A2D_HAND = _manipulator(
    "agibot_a2d_hand",
    "AgiBot A2-D (dexterous hands)",
    30.0,
    _dual_joints_and_hands(7, 6),
    _AGIBOT_CAMERAS,
    waist=True,
    mobile_base=True,
)

#: The Galaxea data set's R1 Lite: 15 frames a second, six joints and a gripper an arm, a torso and a wheeled base; of the head's two
#: cameras the left one.
GALAXEA_R1 = _manipulator(
    "galaxea_r1",
    "Galaxea R1",
    15.0,
    _dual_joints(6),
    {"ego": "head_left_rgb", "cam_left_wrist": "left_wrist_rgb", "cam_right_wrist": "right_wrist_rgb"},
    waist=True,
    mobile_base=True,
)

#: RoboCOIN's robot: 30 Hz, 36 numbers, which are six joints an arm and twelve a hand; it rolls on a base.
AIRBOT_MMK2 = _manipulator(
    "airbot_mmk2",
    "AIRBOT MMK2",
    30.0,
    _dual_joints_and_hands(6, 12),
    {
        "ego": "cam_head_rgb",
        "cam_left_wrist": "cam_left_wrist_rgb",
        "cam_right_wrist": "cam_right_wrist_rgb",
        "cam_third_person": "cam_front_rgb",
    },
    mobile_base=True,
)

#: RoboMIND's humanoid with seven joints an arm: ``tienkung_gello_1rgb`` has 16 numbers with one for each hand's closing, and
#: ``tienkung_xsens_1rgb`` 14 joints and six driven joints a hand. 30 Hz is the rate of its one camera; it prints no other.
TIENKUNG_GRIPPER = _manipulator("tienkung_gripper", "TienKung", 30.0, _dual_joints(7), {"ego": "camera_top"})
TIENKUNG_HAND = _manipulator(
    "tienkung_hand", "TienKung (dexterous hands)", 30.0, _dual_joints_and_hands(7, 6), {"ego": "camera_top"}
)


def _human_channels() -> tuple[Channel, ...]:
    """32 numbers: for each hand the wrist's motion from the first frame, then ten weights of hand poses (section 3.2.2)."""
    channels: list[Channel] = []
    for side in _SIDES:
        channels += [Channel(f"{side}_wrist_{axis}", "m", "delta", "first_wrist", -2.0, 2.0) for axis in "xyz"]
        channels += [
            Channel(f"{side}_wrist_rotation_{axis}", "rad", "delta", "first_wrist", -math.pi, math.pi, rotation="axis_angle")
            for axis in "xyz"
        ]
        channels += [Channel(f"{side}_eigengrasp_{index}", "weight", "absolute", "hand", -10.0, 10.0) for index in range(1, 11)]
    return tuple(channels)


#: People seen through a camera on their heads, their hands fitted with MANO: relative wrist motion and eigengrasps (section 3.2.2).
#: 30 Hz is EgoDex's rate (arXiv 2505.11709) and that of Ego4D's videos.
REAL_HUMAN = _manipulator("real_human", "Real Human", 30.0, _human_channels(), {"ego": "image"})


def _language_action_arm(name: str, robot_tag: str, joints: int) -> Embodiment:
    """A single arm of the language-action data: planned trajectories at 50 Hz that no camera saw (section 3.2.3).

    The data hold joint positions, end effector poses and gripper states, and the paper leaves the representation open ("a variety of
    action representations"). Ours is the absolute angle of each joint and the gripper. The planner's paths are in joint space, so this
    is the data's own format, which the paper preserves elsewhere (section 3.2.1); an end effector's pose follows from the angles, and
    not the reverse where an arm has seven; and at 50 Hz a change of pose from one step to the next is a few millimetres. Table 2 has
    the type as "Abs Joint + G".
    """
    return _manipulator(name, robot_tag, 50.0, (*_joints("", joints), *_gripper()), {}, arms="single arm")


#: The six in the paper's order. The number of each one's joints is its maker's. Only the Panda has another action type here, so it
#: alone says which this is; its 50 Hz make it another prompt than :data:`FRANKA_JOINT`'s.
LANGUAGE_ACTION: tuple[Embodiment, ...] = (
    _language_action_arm("franka_language_action", "Franka Panda (joint control)", 7),
    _language_action_arm("ur10e", "UR10e", 6),
    _language_action_arm("ur5e", "UR5e", 6),
    _language_action_arm("kinova_gen3", "Kinova Gen3", 7),
    _language_action_arm("tm12", "TM12", 6),
    _language_action_arm("xarm7", "xArm7", 7),
)


#: A car whose future path, or another road user's, is predicted: "the precise future spatial trajectory of the agent or
#: surrounding entities in continuous coordinate space" (section 2.1). The paper prints no channels, rate or horizon. Ours are
#: those of NAVSIM, from which part of its driving data is made (section 3.2.5): poses (x, y, heading) in the frame of the car at the
#: time of the image, x forward, y to the left, heading counter-clockwise, one each half second (autonomousvision/navsim
#: navsim/common/dataclasses.py@0811876, ``Trajectory``). Its four seconds are eight waypoints, as many as navigation's. Poses in
#: one frame serve for other road users too: these begin elsewhere, and displacements would not say where. The task says who is
#: meant. The bounds allow 50 m/s. The state is empty.
CAR = Embodiment(
    name="car",
    robot_tag="car",
    arms="none",
    control_frequency=2.0,
    channels=(
        Channel("x", "m", "absolute", "car", -200.0, 200.0),
        Channel("y", "m", "absolute", "car", -200.0, 200.0),
        Channel("heading", "rad", "absolute", "car", -math.pi, math.pi),
    ),
    state_layout=(),
    cameras={"ego": "cam_f0"},
    statistics_key="car",
    mobile_base=True,
)

#: Table 2 in its order; a row with several action types, or with one and two arms, is several embodiments.
TABLE_2: tuple[Embodiment, ...] = (
    WIDOWX_BRIDGE,
    GOOGLE_ROBOT,
    FRANKA_EEF,
    FRANKA_JOINT,
    FRANKA_DUAL_EEF,
    FRANKA_DUAL_JOINT,
    ARX5_EEF,
    GR1_EEF,
    MOBILE_ALOHA_EEF,
    MOBILE_ALOHA_JOINT,
    AGIBOT_A2D_GRIPPER,
    AGIBOT_A2D_HAND,
    GALAXEA_R1,
    AIRBOT_MMK2,
    TIENKUNG_GRIPPER,
    TIENKUNG_HAND,
    REAL_HUMAN,
)

#: The robots of the paper, by name; those of suites are the suites' own (:func:`~vlarig.policies.conventions.embodiment_named`).
EMBODIMENTS: dict[str, Embodiment] = {known.name: known for known in (*TABLE_2, *LANGUAGE_ACTION, CAR)}

#: The robot of examples and probes, where a policy was trained on none: it has the most views.
EXAMPLE = FRANKA_EEF
