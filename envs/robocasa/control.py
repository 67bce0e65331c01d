"""robosuite 1.5's ``JOINT_POSITION`` for arms and waist, and its hands: the same torques to the last bit with less work.

Upstream evaluates the joints' inertia for each part in each of a control step's 25 physics steps, and with it what only other
controllers and observations need. The operations that are left act on arrays of the same layout, so that no rounding differs; the
parity tests compare the states that both reach.

Source: robosuite 1.5.1, ``controllers/parts/generic/joint_pos.py`` (``run_controller``), ``controllers/parts/controller.py``
(``update``), ``robots/legged_robot.py`` (``control``), ``models/grippers/fourier_hands.py`` (``format_action``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from ..mujoco_shared import as_slice

#: Upstream's name of a part of the robot to ours; in this order it is controlled.
UPSTREAM_PARTS = {"right": "right_arm", "left": "left_arm", "torso": "waist"}
UPSTREAM_HANDS = {"right_gripper": "right_hand", "left_gripper": "left_hand"}


@dataclass
class Part:
    """A part whose joints are moved by torques; views of the simulation's arrays, and what upstream's controller holds.

    Attributes:
        dofs: Its joints among all, which are neighbours.
        position: Joint angles, ``float64[joints]``, in rad.
        velocity: Their velocities, in rad/s.
        bias: Gravity and Coriolis torques, in Nm.
        command: The actuators' commands.
        gear: The actuators' gears.
        low: Lowest command.
        high: Highest command.
        kp: Stiffness, in 1/s^2.
        kd: Damping, in 1/s.
        goal: Where the joints are to go, in rad.
    """

    dofs: slice
    position: np.ndarray
    velocity: np.ndarray
    bias: np.ndarray
    command: np.ndarray
    gear: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kp: np.ndarray
    kd: np.ndarray
    goal: np.ndarray


class JointController:
    """The controller of one env's robot.

    Args:
        robot: Upstream's robot, freshly reset; gains, limits and indices are read from it.
        model: The compiled model.
        data: The env's simulation.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self._inertia = np.empty((model.nv, model.nv))
        self._parts, self._hands = {}, {}
        for name, controller in robot.part_controllers.items():
            actuators = as_slice(robot._ref_actuators_indexes_dict[name])
            low, high = model.actuator_ctrlrange[actuators].T
            gear = model.actuator_gear[actuators, 0]
            if name in UPSTREAM_HANDS:
                hand = robot.gripper[name.partition("_")[0]]
                self._hands[UPSTREAM_HANDS[name]] = (hand.format_action, data.ctrl[actuators], gear, low, high)
                continue
            angles, dofs = as_slice(controller.qpos_index), as_slice(controller.qvel_index)
            views = data.qpos[angles], data.qvel[dofs], data.qfrc_bias[dofs], data.ctrl[actuators]
            self._parts[UPSTREAM_PARTS[name]] = Part(
                dofs, *views, gear, low, high, np.array(controller.kp), np.array(controller.kd), views[0].copy()
            )

    def set_goal(self, goal: dict[str, np.ndarray]) -> None:
        """Where each part's joints are to go, in rad; hands are driven there by themselves."""
        for name, part in self._parts.items():
            part.goal = goal[name]
        for name, (spread, command, gear, low, high) in self._hands.items():
            command[:] = np.clip(spread(goal[name]) / gear, low, high)

    def apply(self) -> None:
        """Command the torques, between the halves of a physics step."""
        mujoco.mj_fullM(self._model, self._inertia, self._data.qM)
        for part in self._parts.values():
            wanted = np.multiply(part.goal - part.position, part.kp) + np.multiply(-part.velocity, part.kd)
            # Column by column, as upstream's indexing leaves it: the order of a matrix decides how a product is rounded.
            inertia = np.asfortranarray(self._inertia[part.dofs, part.dofs])
            torque = np.dot(inertia, wanted) + part.bias
            part.command[:] = np.clip(torque / part.gear, part.low, part.high)
