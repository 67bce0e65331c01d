"""robosuite 1.4's ``OSC_POSE`` for the Panda arm, and its gripper: the same torques to the last bit with less work.

Upstream runs the controller in each of a control step's 25 physics steps, and evaluates three times what follows from the positions and
velocities (``MujocoEnv.step``, ``Controller.update`` and MuJoCo's own step). Here that is done once, between the halves of a physics
step. What is left are the same operations on arrays of the same layout, and robosuite's own compiled functions, so that no rounding
differs; the parity tests compare the states that both reach.

Source: robosuite 1.4.0, ``controllers/osc.py`` and ``base_controller.py``, ``robots/single_arm.py`` and ``manipulator.py``,
``models/grippers/panda_gripper.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from ..mujoco_shared import ROBOSUITE_LOG, as_slice
from ..upstream import quiet

with quiet(ROBOSUITE_LOG):
    from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error, set_goal_orientation

#: mj_forwardSkip leaves out what is up to date up to this stage.
_VELOCITY_STAGE = mujoco.mjtStage.mjSTAGE_VEL.value


@dataclass
class ArmState:
    """The controller's state of the arm, as of one physics step.

    Matrices lie column by column, as upstream's indexing leaves them: the order of a matrix decides how a product is rounded.

    Attributes:
        position: Grip site in the world, ``float64[3]``, in m.
        rotation: Its orientation, ``float64[3, 3]``.
        linear: Its velocity, ``float64[3]``, in m/s.
        angular: Its angular velocity, ``float64[3]``, in rad/s.
        joint_pos: Arm joints, ``float64[7]``, in rad.
        joint_vel: Their velocities, ``float64[7]``, in rad/s.
        jacobian_linear: The grip site's, ``float64[3, 7]``.
        jacobian_angular: The grip site's, ``float64[3, 7]``.
        jacobian: Linear above angular, ``float64[6, 7]``.
        inertia: Of the joints, ``float64[7, 7]``.
    """

    position: np.ndarray
    rotation: np.ndarray
    linear: np.ndarray
    angular: np.ndarray
    joint_pos: np.ndarray
    joint_vel: np.ndarray
    jacobian_linear: np.ndarray
    jacobian_angular: np.ndarray
    jacobian: np.ndarray
    inertia: np.ndarray


class ArmController:
    """The controller of one env's arm and gripper.

    Args:
        robot: Upstream's robot of the same model, freshly reset; gains, limits and indices are read from it.
        model: The compiled model.
        data: The env's simulation.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        upstream = robot.controller
        self._model, self._data = model, data
        self._site = robot.eef_site_id
        self._dofs = as_slice(robot._ref_joint_vel_indexes)
        self._bias = data.qfrc_bias[self._dofs]
        self._arm_ctrl = data.ctrl[as_slice(robot._ref_joint_actuator_indexes)]
        self._gripper_ctrl = data.ctrl[as_slice(robot._ref_joint_gripper_actuator_indexes)]
        self._low, self._high = robot.torque_limits
        self._kp_linear, self._kp_angular = upstream.kp[:3].copy(), upstream.kp[3:].copy()
        self._kd_linear, self._kd_angular = upstream.kd[:3].copy(), upstream.kd[3:].copy()
        self._wrench = np.zeros(6)
        self._scale = upstream.scale_action
        self._gripper_speed = robot.gripper.speed
        span = model.actuator_ctrlrange[robot._ref_joint_gripper_actuator_indexes]
        self._gripper_middle = 0.5 * (span[:, 1] + span[:, 0])
        self._gripper_reach = 0.5 * (span[:, 1] - span[:, 0])
        self._initial_joint = upstream.initial_joint.copy()
        self._first_arm = ArmState(
            upstream.ee_pos,
            upstream.ee_ori_mat,
            upstream.ee_pos_vel,
            upstream.ee_ori_vel,
            upstream.joint_pos,
            upstream.joint_vel,
            upstream.J_pos,
            upstream.J_ori,
            upstream.J_full,
            upstream.mass_matrix,
        )
        self._all_jacobians = np.zeros((2, 3, model.nv))
        self._all_inertia = np.zeros((model.nv, model.nv))
        self._live_arm = ArmState(
            position=data.site_xpos[self._site],
            rotation=data.site_xmat[self._site].reshape(3, 3),
            linear=np.zeros(3),
            angular=np.zeros(3),
            joint_pos=data.qpos[as_slice(robot._ref_joint_pos_indexes)],
            joint_vel=data.qvel[self._dofs],
            jacobian_linear=np.zeros((3, 7), order="F"),
            jacobian_angular=np.zeros((3, 7), order="F"),
            jacobian=np.zeros((6, 7), order="F"),
            inertia=np.zeros((7, 7), order="F"),
        )
        self.reset()

    def reset(self) -> None:
        """Forget the episode.

        Upstream's controller reads the arm when it is made, before the initial state is set, and not again until its first torque is
        out; so an episode's first goal and first torque follow from the arm's home pose.
        """
        self._first = True
        self._goal_rotation = self._first_arm.rotation.copy()
        self._gripper_command = np.zeros(2)

    def memory(self) -> np.ndarray:
        """``float64[12]``: what the future depends on beside the simulation: goal's rotation, gripper's command, the first look."""
        return np.concatenate([self._goal_rotation.ravel(), self._gripper_command, [float(self._first)]])

    def evaluate(self) -> None:
        """The first half of a physics step: all that follows from positions and velocities.

        Upstream passes over it once in ``MujocoEnv.step`` and once more in ``Controller.update`` (there not before an episode's first
        torque), with the commands of the step before. Of these passes only the solver's part changes anything: its warm start.
        """
        mujoco.mj_step1(self._model, self._data)
        for _ in range(1 if self._first else 2):
            mujoco.mj_forwardSkip(self._model, self._data, _VELOCITY_STAGE, True)

    def set_goal(self, action: np.ndarray) -> None:
        """Set the control step's goal from ``action``, ``float64[7]``.

        Positions and velocities must have been evaluated. A rotation of exactly zero keeps the goal that was there.
        """
        self._arm = self._first_arm if self._first else self._look()
        delta = self._scale(action[:6])
        self._goal_position = self._arm.position + delta[:3]
        if delta[3:].any():
            self._goal_rotation = set_goal_orientation(delta[3:], self._arm.rotation)
        self._gripper_step = np.array([-1.0, 1.0]) * self._gripper_speed * np.sign(action[6:])
        self._fresh = True

    def apply(self) -> None:
        """Write one physics step's commands into the simulation, whose positions and velocities have been evaluated."""
        if not self._fresh:
            self._arm = self._look()
        self._first = self._fresh = False
        arm, wrench = self._arm, self._wrench
        turn = orientation_error(self._goal_rotation, arm.rotation)
        force = (self._goal_position - arm.position) * self._kp_linear - arm.linear * self._kd_linear
        torque = turn * self._kp_angular - arm.angular * self._kd_angular
        _, lambda_linear, lambda_angular, nullspace = opspace_matrices(
            arm.inertia, arm.jacobian, arm.jacobian_linear, arm.jacobian_angular
        )
        np.dot(lambda_linear, force, out=wrench[:3])
        np.dot(lambda_angular, torque, out=wrench[3:])
        torques = np.dot(arm.jacobian.T, wrench)
        torques += self._bias
        torques += nullspace_torques(arm.inertia, nullspace, self._initial_joint, arm.joint_pos, arm.joint_vel)
        np.maximum(torques, self._low, out=torques)
        np.minimum(torques, self._high, out=self._arm_ctrl)
        command = self._gripper_command
        command += self._gripper_step
        np.maximum(command, -1.0, out=command)
        np.minimum(command, 1.0, out=command)
        np.multiply(self._gripper_reach, command, out=self._gripper_ctrl)
        self._gripper_ctrl += self._gripper_middle

    def _look(self) -> ArmState:
        linear, angular = self._all_jacobians
        mujoco.mj_jacSite(self._model, self._data, linear, angular, self._site)
        arm = self._live_arm
        np.dot(linear, self._data.qvel, out=arm.linear)
        np.dot(angular, self._data.qvel, out=arm.angular)
        arm.jacobian[:3] = arm.jacobian_linear[:] = linear[:, self._dofs]
        arm.jacobian[3:] = arm.jacobian_angular[:] = angular[:, self._dofs]
        mujoco.mj_fullM(self._model, self._all_inertia, self._data.qM)
        arm.inertia[:] = self._all_inertia[self._dofs, self._dofs]
        return arm
