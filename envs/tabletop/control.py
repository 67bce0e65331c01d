"""robosuite 1.5's ``OSC_POSE`` and ``GRIP`` for one arm that is bolted down: the same torques to the last bit with less work.

robosuite runs its controllers in each of a control step's 25 physics steps. Most of that computes again what does not change within a
step, or at all (the goal in the world, the pose and the velocity of the arm's base, names and indices, the gripper's command), and
asks for six Jacobians where one will do. What is left are the same operations on arrays of the same layout, and robosuite's own
compiled functions, so that no rounding differs; ``benchmarks/speed/steps.py`` compares the states that both reach.

Source: robosuite 1.5.1, ``controllers/parts/arm/osc.py``, ``controllers/parts/controller.py``,
``controllers/parts/gripper/simple_grip.py``, ``robots/fixed_base_robot.py`` (``control``).
"""

from __future__ import annotations

from typing import Any, Optional

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from ..mujoco_shared import as_slice
from .randomization import Sample

ARM = "right"
GRIPPER = "right_gripper"


class ArmController:
    """The controller of one env's arm and gripper in one episode.

    Args:
        robot: robosuite's robot, freshly reset; gains, limits and indices are read from it.
        model: The compiled model.
        data: The env's simulation.
        sampled: Factors on the gains; none without it.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData, sampled: Optional[Sample] = None) -> None:
        self._model, self._data = model, data
        self._upstream = upstream = robot.composite_controller.part_controllers[ARM]
        self._gripper = robot.gripper[ARM]
        self._site = robot.eef_site_id[ARM]
        self._position, self._rotation = data.site_xpos[self._site], data.site_xmat[self._site].reshape(3, 3)
        self._dofs = as_slice(upstream.qvel_index)
        self._joint_pos, self._joint_vel = data.qpos[as_slice(upstream.qpos_index)], data.qvel[self._dofs]
        self._bias = data.qfrc_bias[self._dofs]
        self._initial_joint = upstream.initial_joint.copy()
        self._arm_ctrl, self._low, self._high = self._actuators(robot, ARM)
        self._gripper_ctrl, low, high = self._actuators(robot, GRIPPER)
        self._gripper_middle, self._gripper_reach = 0.5 * (high + low), 0.5 * (high - low)
        self._kp, self._kd = upstream.kp, upstream.kd
        if sampled is not None:
            self._kp = self._kp * np.repeat(sampled.stiffness, 3)
            self._kd = self._kd * np.repeat(np.sqrt(sampled.stiffness) * sampled.damping, 3)
        self._all_jacobians = np.zeros((6, model.nv))
        self._linear, self._angular = self._all_jacobians[:3], self._all_jacobians[3:]
        self._arm_jacobians = self._all_jacobians[:, self._dofs]
        self._all_inertia = np.zeros((model.nv, model.nv))
        self._arm_inertia = self._all_inertia[self._dofs, self._dofs]
        self._jacobian = np.zeros((6, len(self._bias)))
        # robosuite's controller reads the arm's inertia when it is made, before the fingers are put where they begin, and not again
        # until its first torque is out. Column by column, as its indexing leaves it: a matrix's order decides how a product is rounded.
        self._inertia = np.array(upstream.mass_matrix, order="F")
        self._first = True
        self._error, self._velocity, self._wrench = np.zeros(6), np.zeros(6), np.zeros(6)

    @property
    def gripper_command(self) -> np.ndarray:
        """``float64[2]``: what the gripper has added up of its commands, from -1 to 1 (``format_action`` of panda_gripper.py)."""
        return np.broadcast_to(self._gripper.current_action, 2)

    def set_goal(self, action: np.ndarray) -> None:
        """Set the control step's goal, between the halves of its first physics step.

        Args:
            action: ``float64[7]``: shift and turn from the achieved pose, in the base's frame, from -1 to 1; closing or opening.
        """
        upstream = self._upstream
        upstream.ref_pos[:], upstream.ref_ori_mat[:] = self._position, self._rotation
        upstream.new_update = False  # the pose is all that it reads
        upstream.set_goal(action[:6])
        self._goal_position = upstream.origin_pos + np.dot(upstream.origin_ori, upstream.goal_pos)
        self._goal_rotation = np.dot(upstream.origin_ori, upstream.goal_ori)
        command = self._gripper.format_action(action[6:])
        self._gripper_ctrl[:] = self._gripper_middle + self._gripper_reach * command

    def apply(self) -> None:
        """Write one physics step's torques into the simulation, between the halves of that step."""
        mujoco.mj_jacSite(self._model, self._data, self._linear, self._angular, self._site)
        self._jacobian[:] = self._arm_jacobians
        if not self._first:
            mujoco.mj_fullM(self._model, self._all_inertia, self._data.qM)
            self._inertia[:] = self._arm_inertia
        self._first = False
        velocity, error, wrench = self._velocity, self._error, self._wrench
        np.dot(self._linear, self._data.qvel, out=velocity[:3])
        np.dot(self._angular, self._data.qvel, out=velocity[3:])
        np.subtract(self._goal_position, self._position, out=error[:3])
        error[3:] = orientation_error(self._goal_rotation, self._rotation)
        pull = self._kp * error - self._kd * velocity
        _, lambda_linear, lambda_angular, nullspace = opspace_matrices(
            self._inertia, self._jacobian, self._jacobian[:3], self._jacobian[3:]
        )
        np.dot(lambda_linear, pull[:3], out=wrench[:3])
        np.dot(lambda_angular, pull[3:], out=wrench[3:])
        torques = np.dot(self._jacobian.T, wrench)
        torques += self._bias
        torques += nullspace_torques(self._inertia, nullspace, self._initial_joint, self._joint_pos, self._joint_vel)
        np.maximum(torques, self._low, out=torques)
        np.minimum(torques, self._high, out=self._arm_ctrl)

    def _actuators(self, robot: Any, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The commands of a part's actuators, their lowest and their highest."""
        actuators = as_slice(robot._ref_actuators_indexes_dict[part])
        low, high = self._model.actuator_ctrlrange[actuators].T
        return self._data.ctrl[actuators], low.copy(), high.copy()
