"""The six arms of the language-action data as data: joints, limits, tools and the capsules around their links.

Joint origins, ranges and speeds are the manufacturers' own descriptions, named at each arm. So are accelerations where they publish
any. The capsules are our own fit: most are the smallest that holds a link's published collision mesh (of the same files; the xArm has
visual meshes only), to the millimetre above. The long links of the e-Series and the TM12 are a tube and a housing at each end instead,
because their meshes are hulls around all three: as thick as the mesh at the ends, and between them thicker than the capsules of
google-deepmind/mujoco_menagerie@5f4c663 universal_robots_ur10e. The rim of the TM12's foot, 65 mm high, is left to the table. The paper
does not say what the arms hold: here each has the two-finger gripper that its maker offers or its description mounts.

Frames: joint ``i`` turns about the z axis of link ``i``. Link 0 is the base, link ``J`` the flange's, and number ``J + 1`` the tool
centre point. Metres and radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import TypeAlias

#: x, y, z in metres, then roll, pitch and yaw about the parent's fixed axes.
Origin: TypeAlias = tuple[float, float, float, float, float, float]
Point: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Capsule:
    """A link's collision shape: all that is nearer than a radius to a segment in the link's frame."""

    link: int
    start: Point
    end: Point
    radius: float


@dataclass(frozen=True)
class Arm:
    """A serial arm with a gripper.

    Attributes:
        name: Of its embodiment.
        origins: Of each joint in the frame of the link before it.
        tool: The tool centre point in the last link's frame; z points where the fingers do, y where they open.
        lower: Smallest angle of each joint.
        upper: Largest angle.
        velocity: Largest speed of each joint, rad/s.
        acceleration: rad/s².
        home: Joint angles from which motions begin, up to a random part: the tool points down, before the arm.
        reach: Nearest and farthest distance of goals from the base's axis.
        capsules: Collision shapes, of the gripper too.
    """

    name: str
    origins: tuple[Origin, ...]
    tool: Origin
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    home: tuple[float, ...]
    reach: tuple[float, float]
    capsules: tuple[Capsule, ...]

    @property
    def joints(self) -> int:
        """``J``."""
        return len(self.origins)


def _two_fingers(tool: int, length: float) -> tuple[Capsule, ...]:
    """A gripper's body, its knuckles and its fingers, open, as seen from the tool centre point at ``length`` from the flange.

    Widths are those of the Robotiq 2F-85, which opens by 85 mm and is 75 mm thick (its manual), and cover the xArm's gripper too.
    """
    return (
        Capsule(tool, (0, 0, 0.02 - length), (0, 0, 0.06 - length), 0.045),
        Capsule(tool, (0, -0.045, 0.085 - length), (0, 0.045, 0.085 - length), 0.035),
        Capsule(tool, (0, -0.045, -0.006), (0, 0.045, -0.006), 0.02),
    )


#: Tool centre point of the Robotiq 2F-85 from its adapter's flange: 7 + 3.8 + 145 mm
#: (google-deepmind/mujoco_menagerie robotiq_2f85/2f85.xml, site ``pinch``).
_ROBOTIQ = 0.1558

#: frankaemika/franka_description@b299b39 robots/fer (the Panda) kinematics.yaml and joint_limits.yaml; the hand's centre point and the
#: hand's two capsules are end_effectors/common/franka_hand.xacro, mounted at -45 degrees on the flange at 107 mm. Accelerations:
#: libfranka's ``kMaxJointAcceleration``.
FRANKA = Arm(
    name="franka_language_action",
    origins=(
        (0, 0, 0.333, 0, 0, 0),
        (0, 0, 0, -pi / 2, 0, 0),
        (0, -0.316, 0, pi / 2, 0, 0),
        (0.0825, 0, 0, pi / 2, 0, 0),
        (-0.0825, 0.384, 0, -pi / 2, 0, 0),
        (0, 0, 0, pi / 2, 0, 0),
        (0.088, 0, 0, pi / 2, 0, 0),
    ),
    tool=(0, 0, 0.107 + 0.1034, 0, 0, -pi / 4),
    lower=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    upper=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    velocity=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    home=(0, -pi / 4, 0, -3 * pi / 4, 0, pi / 2, pi / 4),
    reach=(0.3, 0.68),
    capsules=(
        Capsule(0, (-0.002, -0.002, 0.049), (-0.059, -0.001, 0.034), 0.109),
        Capsule(1, (0, -0.053, 0.001), (-0.002, 0.003, -0.143), 0.077),
        Capsule(2, (-0.001, -0.142, 0), (0, 0.002, 0.053), 0.077),
        Capsule(3, (0.083, 0.043, 0), (0, -0.005, -0.087), 0.07),
        Capsule(4, (-0.002, 0.007, 0.041), (-0.077, 0.083, -0.004), 0.075),
        Capsule(5, (0, 0, -0.224), (0, 0.033, -0.159), 0.067),
        Capsule(5, (0, 0.032, -0.138), (0, 0.064, 0), 0.07),
        Capsule(6, (0.085, 0.009, -0.001), (0.025, 0, 0.008), 0.077),
        Capsule(7, (-0.007, -0.008, 0.072), (0.033, 0.034, 0.082), 0.05),
        Capsule(8, (0, -0.05, 0.04 - 0.1034), (0, 0.05, 0.04 - 0.1034), 0.04),
        Capsule(8, (0, -0.05, 0.1 - 0.1034), (0, 0.05, 0.1 - 0.1034), 0.02),
    ),
)


def _universal_robots(
    name: str,
    height: float,
    upper_arm: float,
    forearm: float,
    wrist: Point,
    fast: float,
    reach: tuple[float, float],
    capsules: tuple[Capsule, ...],
) -> Arm:
    """An e-Series arm: UniversalRobots/Universal_Robots_ROS2_Description@2221ec0 config/NAME (default_kinematics, joint_limits).

    The base frame is ``base_link``, half a turn from the controller's. A full turn of a wrist to each side is enough here, and half a
    turn of shoulder and elbow, so the ranges of 360 degrees are halved: fewer solutions are the same pose. Accelerations: the
    manufacturer publishes none; its MoveIt configuration takes 5 rad/s² (UniversalRobots/Universal_Robots_ROS2_Driver@5e3c464
    ur_moveit_config/config/joint_limits.yaml).
    """
    return Arm(
        name=name,
        origins=(
            (0, 0, height, 0, 0, pi),
            (0, 0, 0, pi / 2, 0, 0),
            (-upper_arm, 0, 0, 0, 0, 0),
            (-forearm, 0, wrist[0], 0, 0, 0),
            (0, -wrist[1], 0, pi / 2, 0, 0),
            (0, wrist[2], 0, -pi / 2, 0, 0),
        ),
        tool=(0, 0, _ROBOTIQ, 0, 0, 0),
        lower=(-pi, -pi, -pi, -2 * pi, -2 * pi, -2 * pi),
        upper=(pi, pi, pi, 2 * pi, 2 * pi, 2 * pi),
        velocity=(fast, fast, pi, pi, pi, pi),
        acceleration=(5.0,) * 6,
        home=(0, -pi / 2, pi / 2, -pi / 2, -pi / 2, 0),
        reach=reach,
        capsules=(*capsules, *_two_fingers(7, _ROBOTIQ)),
    )


UR10E = _universal_robots(
    "ur10e",
    0.1807,
    0.6127,
    0.57155,
    (0.17415, 0.11985, 0.11655),
    2 * pi / 3,
    (0.4, 1.0),
    (
        Capsule(0, (0, 0.002, 0.034), (0, -0.001, 0.032), 0.101),
        Capsule(1, (0, -0.014, 0), (0, 0.003, -0.002), 0.111),
        Capsule(2, (0, 0, 0.14), (0, 0, 0.224), 0.09),
        Capsule(2, (0, 0, 0.176), (-0.6127, 0, 0.17), 0.07),
        Capsule(2, (-0.6127, 0, 0.137), (-0.6127, 0, 0.211), 0.075),
        Capsule(3, (0, 0, 0.01), (0, 0, 0.072), 0.068),
        Capsule(3, (0, 0, 0.05), (-0.5716, 0, 0.05), 0.05),
        Capsule(3, (-0.5716, 0, 0.01), (-0.5716, 0, 0.077), 0.056),
        Capsule(4, (-0.001, 0, -0.014), (0.002, -0.013, 0.001), 0.072),
        Capsule(5, (-0.001, -0.006, -0.01), (0, 0.025, -0.004), 0.065),
        Capsule(6, (0, 0.002, -0.029), (0.001, -0.003, -0.029), 0.05),
    ),
)

UR5E = _universal_robots(
    "ur5e",
    0.1625,
    0.425,
    0.3922,
    (0.1333, 0.0997, 0.0996),
    pi,
    (0.3, 0.72),
    (
        Capsule(0, (0, 0, 0.043), (0, 0, 0.028), 0.082),
        Capsule(1, (0.012, 0.01, -0.015), (0, -0.014, -0.002), 0.086),
        Capsule(2, (0, 0, 0.105), (0, 0, 0.175), 0.072),
        Capsule(2, (0, 0, 0.138), (-0.425, 0, 0.138), 0.06),
        Capsule(2, (-0.425, 0, 0.1), (-0.425, 0, 0.17), 0.072),
        Capsule(3, (0, 0, -0.01), (0, 0, 0.03), 0.066),
        Capsule(3, (0, 0, 0.007), (-0.3922, 0, 0.007), 0.047),
        Capsule(3, (-0.3922, 0, -0.02), (-0.3922, 0, 0.03), 0.05),
        Capsule(4, (0, -0.001, -0.001), (0, 0.002, -0.023), 0.065),
        Capsule(5, (0, -0.009, -0.004), (0, 0.012, -0.003), 0.058),
        Capsule(6, (0, -0.002, -0.028), (0, 0.001, -0.027), 0.043),
    ),
)

#: Kinovarobotics/ros2_kortex@1fdbef3 kortex_description/arms/gen3/7dof/urdf/gen3_macro.xacro, with the camera on the bracelet and an
#: external cable, which bounds the endless joints; the bound is halved as the e-Series's is. Speeds and accelerations:
#: kortex_moveit_config/kinova_gen3_7dof_robotiq_2f_85_moveit_config/config/joint_limits.yaml.
KINOVA = Arm(
    name="kinova_gen3",
    origins=(
        (0, 0, 0.15643, pi, 0, 0),
        (0, 0.005375, -0.12838, pi / 2, 0, 0),
        (0, -0.21038, -0.006375, -pi / 2, 0, 0),
        (0, 0.006375, -0.21038, pi / 2, 0, 0),
        (0, -0.20843, -0.006375, -pi / 2, 0, 0),
        (0, 0.00017505, -0.10593, pi / 2, 0, 0),
        (0, -0.10593, -0.00017505, -pi / 2, 0, 0),
    ),
    tool=(0, 0, -0.061525 - _ROBOTIQ, pi, 0, 0),
    lower=(-pi, -2.24, -2 * pi, -2.57, -2 * pi, -2.09, -2 * pi),
    upper=(pi, 2.24, 2 * pi, 2.57, 2 * pi, 2.09, 2 * pi),
    velocity=(1.3963, 1.3963, 1.3963, 1.3963, 1.2218, 1.2218, 1.2218),
    acceleration=(8.6,) * 7,
    home=(0, pi / 12, pi, -2.2689, 0, -0.6109, pi / 2),
    reach=(0.28, 0.62),
    capsules=(
        Capsule(0, (-0.004, 0, 0.153), (-0.005, 0.001, 0.014), 0.054),
        Capsule(1, (0, -0.008, -0.128), (0, 0, -0.033), 0.055),
        Capsule(2, (0.002, 0.002, -0.02), (0, -0.209, -0.006), 0.05),
        Capsule(3, (0, 0, -0.031), (-0.001, -0.004, -0.214), 0.054),
        Capsule(4, (0, -0.196, -0.001), (0, 0.004, -0.02), 0.049),
        Capsule(5, (0, -0.013, -0.106), (0, 0, -0.03), 0.044),
        Capsule(6, (0, -0.001, -0.02), (0, -0.101, 0), 0.04),
        Capsule(7, (0, -0.054, -0.055), (0, 0, -0.036), 0.048),
        *_two_fingers(8, _ROBOTIQ),
    ),
)

#: TechmanRobotInc/tmr_ros1@3075175 tm_description/urdf/tm12-nominal.urdf. No acceleration is published: 5 rad/s², as for the e-Series,
#: whose arms are of this size.
TM12 = Arm(
    name="tm12",
    origins=(
        (0, 0, 0.1652, 0, 0, 0),
        (0, 0, 0, -pi / 2, -pi / 2, 0),
        (0.6361, 0, 0, 0, 0, 0),
        (0.5579, 0, -0.1563, 0, 0, pi / 2),
        (0, -0.106, 0, pi / 2, 0, 0),
        (0, -0.11315, 0, pi / 2, 0, 0),
    ),
    tool=(0, 0, _ROBOTIQ, 0, 0, 0),
    lower=(-3 * pi / 2, -pi, -2.897247, -pi, -pi, -3 * pi / 2),
    upper=(3 * pi / 2, pi, 2.897247, pi, pi, 3 * pi / 2),
    velocity=(2 * pi / 3, 2 * pi / 3, pi, pi, pi, pi),
    acceleration=(5.0,) * 6,
    home=(0, -0.5, 1.9, 0.17, pi / 2, 0),
    reach=(0.4, 1.0),
    capsules=(
        Capsule(0, (0, 0, 0), (0, 0, 0.02), 0.08),
        Capsule(1, (-0.001, -0.001, -0.023), (-0.001, -0.001, 0.011), 0.11),
        Capsule(2, (0, 0, -0.237), (0, 0, -0.117), 0.087),
        Capsule(2, (0, 0, -0.18), (0.6361, 0, -0.18), 0.065),
        Capsule(2, (0.6361, 0, -0.217), (0.6361, 0, -0.14), 0.074),
        Capsule(3, (0, 0, -0.07), (0, 0, -0.036), 0.066),
        Capsule(3, (0, 0, -0.05), (0.5579, 0, -0.05), 0.046),
        Capsule(3, (0.5579, 0, -0.085), (0.5579, 0, -0.015), 0.053),
        Capsule(4, (0, 0.008, 0.001), (0, -0.001, 0), 0.073),
        Capsule(5, (0.001, 0.008, -0.003), (0, -0.009, 0), 0.066),
        Capsule(6, (0, 0.007, -0.035), (0, 0.019, 0.001), 0.056),
        Capsule(6, (0, 0.07, 0.026), (0, 0.062, -0.035), 0.045),
        *_two_fingers(7, _ROBOTIQ),
    ),
)

#: xArm-Developer/xarm_ros2@3654ba7 xarm_description/urdf/xarm7/xarm7.urdf.xacro; the gripper's centre point is
#: urdf/gripper/xarm_gripper.urdf.xacro. Endless joints are bounded as the e-Series's are. Accelerations: 1145 degrees/s², the
#: manufacturer's user manual.
XARM7 = Arm(
    name="xarm7",
    origins=(
        (0, 0, 0.267, 0, 0, 0),
        (0, 0, 0, -pi / 2, 0, 0),
        (0, -0.293, 0, pi / 2, 0, 0),
        (0.0525, 0, 0, pi / 2, 0, 0),
        (0.0775, -0.3425, 0, pi / 2, 0, 0),
        (0, 0, 0, pi / 2, 0, 0),
        (0.076, 0.097, 0, -pi / 2, 0, 0),
    ),
    tool=(0, 0, 0.172, 0, 0, 0),
    lower=(-pi, -2.059, -pi, -0.19198, -2 * pi, -1.69297, -2 * pi),
    upper=(pi, 2.0944, pi, 3.927, 2 * pi, pi, 2 * pi),
    velocity=(3.14,) * 7,
    acceleration=(19.98,) * 7,
    home=(0, -0.247, 0, 0.909, 0, 1.15644, 0),
    reach=(0.25, 0.6),
    capsules=(
        Capsule(0, (0, 0, 0.013), (0, 0.001, 0.113), 0.065),
        Capsule(1, (-0.001, 0.005, -0.058), (0, 0.017, 0), 0.076),
        Capsule(2, (-0.001, -0.139, 0.018), (-0.001, -0.032, 0.083), 0.081),
        Capsule(3, (0.051, -0.004, 0), (0, -0.005, -0.041), 0.078),
        Capsule(4, (0.089, -0.122, 0.012), (0.025, -0.019, 0.072), 0.076),
        Capsule(5, (-0.008, 0.009, -0.155), (0.001, 0.046, -0.001), 0.058),
        Capsule(6, (0.076, 0.021, 0), (0.016, 0.01, 0.017), 0.062),
        Capsule(7, (0, 0, -0.014), (0, -0.012, -0.014), 0.041),
        *_two_fingers(8, 0.172),
    ),
)

#: By embodiment name, in the paper's order.
ARMS: dict[str, Arm] = {arm.name: arm for arm in (FRANKA, UR10E, UR5E, KINOVA, TM12, XARM7)}
