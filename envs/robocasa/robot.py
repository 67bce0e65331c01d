"""The robot of RoboCasa-GR1, in two channel orders."""

from __future__ import annotations

import numpy as np

from ..embodiments import Channel, Embodiment

#: Limits of the joints in radians, as upstream's robot has them (robosuite 1.5.1, models/assets/robots/gr1/robot.xml and
#: grippers/fourier_left_hand.xml). Of a hand's two joints a finger, which move together, the narrower one counts.
_ARM = {"left": ((-3, 3), (0, 3), (-3, 3), (-3, 0), (-3, 3), (-1.5, 1.5), (-1.5, 1.5))}
_ARM["right"] = (_ARM["left"][0], (-3, 0), *_ARM["left"][2:])
_HAND = ((0, 1.57), (0, 1.57), (0, 1.57), (0, 1.57), (0, 1.22), (0, 1.74))
_WAIST = ((-1.05, 1.05), (-0.52, 1.22), (-0.7, 0.7))

#: Upstream's name of a part to its channels: an arm from the shoulder outwards; a hand's little finger, ring, middle and index finger,
#: and its thumb, which bends and turns (robosuite 1.5.1, models/grippers/fourier_hands.py, ``format_action``, and the actuators of
#: grippers/fourier_left_hand.xml); the waist's yaw, pitch and roll.
PARTS: dict[str, tuple[Channel, ...]] = {
    part: tuple(
        Channel(f"{name}_joint_{number}", "rad", "absolute", "joint", *limits) for number, limits in enumerate(joints, 1)
    )
    for part, name, joints in (
        ("left_arm", "left", _ARM["left"]),
        ("right_arm", "right", _ARM["right"]),
        ("left_hand", "left_hand", _HAND),
        ("right_hand", "right_hand", _HAND),
        ("waist", "waist", _WAIST),
    )
}

#: Order of the parts in StarVLA's checkpoints (starVLA/starVLA@0ed0aad examples/simBenchmarks/Robocasa_tabletop/train_files/
#: data_registry/data_config.py, ``action_keys``), and in GR00T's data, whose 44 numbers also hold legs and neck, which do not move here
#: (NVIDIA/Isaac-GR00T@16d0dae demo_data/robot_sim.PickNPlace/meta/modality.json).
STARVLA_ORDER = ("left_arm", "right_arm", "left_hand", "right_hand", "waist")
GR00T_ORDER = ("left_arm", "left_hand", "right_arm", "right_hand", "waist")


def _embodiment(name: str, order: tuple[str, ...]) -> Embodiment:
    """The robot with its parts in that order, in actions and in the state."""
    channels = tuple(channel for part in order for channel in PARTS[part])
    return Embodiment(
        name=name,
        robot_tag="Fourier GR-1 (joint control)",
        arms="dual arms",
        control_frequency=20.0,
        channels=channels,
        state_layout=tuple(channel.name for channel in channels),
        cameras={"ego": "egoview"},
        statistics_key=name,
        waist=True,
    )


#: RoboCasa-GR1's robot. The paper has its arms and its size, "bimanual humanoid" (section 5.1.1) and "29-DoF whole-body" (section
#: 5.2.2). What the 29 are and their order are those of StarVLA's checkpoints: joint angles at 20 Hz
#: (robocasa/robocasa-gr1-tabletop-tasks@4840e67, ``control_freq``).
ROBOCASA_GR1 = _embodiment("robocasa_gr1", STARVLA_ORDER)

#: The same in the order of GR00T's data.
ROBOCASA_GR1_GR00T = _embodiment("robocasa_gr1_gr00t", GR00T_ORDER)


def split(action: np.ndarray, order: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The numbers of each part of the robot."""
    ends = np.cumsum([len(PARTS[part]) for part in order])[:-1]
    return dict(zip(order, np.split(action, ends)))
