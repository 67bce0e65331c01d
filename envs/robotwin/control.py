"""The targets of upstream's robot in each physics step: the same numbers to the last bit, with less work.

Upstream moves an arm and then its gripper, and before each it computes, for each arm's articulation, the torques that hold it against
gravity; with two arms that are one articulation that is eight times a physics step. Here they are computed once, as long as nothing
has moved. Numbers are clipped without NumPy's general function, of which a gripper's 66 us had six calls of 3 us.

Source: RoboTwin-Platform/RoboTwin@13c3c47 and H-EmbodVis/DOMINO@9fd1271, ``envs/robot/robot.py`` (``_entity_qf``, ``set_arm_joints``,
``set_gripper``, ``get_normal_real_gripper_val``).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Drives:
    """What sets the drives of one robot.

    Args:
        robot: Upstream's ``Robot``, in its scene.
    """

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        self._entities = [robot.left_entity]
        if robot.right_entity is not robot.left_entity:
            self._entities.append(robot.right_entity)
        self._moved: list[bytes] = [b""] * len(self._entities)
        self._forces: list[Any] = [None] * len(self._entities)

    def take_over(self) -> None:
        """Have the robot set its drives by this."""
        vars(self._robot).update(set_arm_joints=self.set_arm_joints, set_gripper=self.set_gripper)

    def set_arm_joints(self, target_position: np.ndarray, target_velocity: np.ndarray, arm_tag: str) -> None:
        """Where the joints of an arm, ``left`` or ``right``, are to be, in rad, and how fast, in rad/s."""
        self._balance()
        for joint, position, velocity in zip(getattr(self._robot, f"{arm_tag}_arm_joints"), target_position, target_velocity):
            joint.set_drive_target(position)
            joint.set_drive_velocity_target(velocity)

    def set_gripper(self, gripper_val: float, arm_tag: str, gripper_eps: float = 0.1) -> None:
        """How far an arm's gripper is to be open, from 0 to 1; it moves by ``gripper_eps`` a call at most.

        Where that is positive its opening is bounded, else its closing.
        """
        self._balance()
        opening = _clipped(gripper_val)
        setattr(self._robot, f"{arm_tag}_gripper_val", opening)
        low, high = getattr(self._robot, f"{arm_tag}_gripper_scale")
        joints = getattr(self._robot, f"{arm_tag}_gripper")
        now = _clipped((joints[0][0].drive_target[0] - low) / (high - low))
        if opening - now > gripper_eps > 0 or opening - now < gripper_eps < 0:
            opening = now + gripper_eps
        width = low + opening * (high - low)
        for joint, factor, offset in joints:
            target = width * factor + offset
            joint.set_drive_velocity_target(np.minimum(np.maximum(target - joint.drive_target, -1.0), 1.0) * 0.05)
            joint.set_drive_target(target)

    def _balance(self) -> None:
        """Hold each articulation against gravity and its own motion."""
        for number, entity in enumerate(self._entities):
            moved = entity.qpos.tobytes() + entity.qvel.tobytes()
            if moved != self._moved[number]:
                self._moved[number] = moved
                self._forces[number] = entity.compute_passive_force(gravity=True, coriolis_and_centrifugal=True)
            entity.set_qf(self._forces[number])


def _clipped(number: float) -> float:
    """The number, or 0 or 1 where it is beyond; in double precision, as NumPy's function computes it."""
    return min(max(0.0, float(number)), 1.0)
