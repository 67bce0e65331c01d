"""robosuite's ``OSC_POSE`` and ``GRIP`` for one arm that is bolted down: the same torques to the last bit with less work.

robosuite runs its controllers in each of a step's 25 substeps, in Python. Most of that goes into computing again what does not
change within a step, or at all (the goal in the world, the pose and the velocity of the arm's base, names and indices, the gripper's
command), and into six calls for Jacobians where one will do. What is left are the same operations on arrays of the same layout, and
robosuite's own compiled functions, so that no rounding differs; ``benchmarks/speed/steps.py`` compares the states that both
reach.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from robosuite.controllers import controller_factory
from robosuite.controllers.composite.composite_controller import CompositeController, register_composite_controller
from robosuite.controllers.parts.arm.osc import OperationalSpaceController
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from ..mujoco_shared import as_slice

ARM = "right"
GRIPPER = "right_gripper"


class ArmController(OperationalSpaceController):
    """robosuite's operational space controller (robosuite/controllers/parts/arm/osc.py) with fixed gains and no interpolation.

    Args:
        params: What robosuite gives its own controller; goals are in the base's frame, the joints are neighbours in the model.
    """

    def __init__(self, **params: Any) -> None:
        sim = params["sim"]
        self._model: mujoco.MjModel = sim.model._model
        self._data: mujoco.MjData = sim.data._data
        self._site = sim.model.site_name2id(params["ref_name"])
        self._site_position = self._data.site_xpos[self._site]
        self._site_rotation = self._data.site_xmat[self._site].reshape(3, 3)
        joints = params["joint_indexes"]
        self._arm_qpos = self._data.qpos[as_slice(joints["qpos"])]
        self._arm_dofs = as_slice(joints["qvel"])
        self._jacobian = np.zeros((2, 3, self._model.nv))
        self._inertia = np.zeros((self._model.nv, self._model.nv))
        super().__init__(control_ori=True, **params)

    def update_reference_data(self) -> None:
        """Read the grip site's pose, velocity and Jacobian."""
        linear, angular = self._jacobian
        mujoco.mj_jacSite(self._model, self._data, linear, angular, self._site)
        self.ref_pos[:] = self._site_position
        self.ref_ori_mat[:] = self._site_rotation
        np.dot(linear, self._data.qvel, out=self.ref_pos_vel)
        np.dot(angular, self._data.qvel, out=self.ref_ori_vel)
        self.J_full[:3] = self.J_pos[:] = linear[:, self._arm_dofs]
        self.J_full[3:] = self.J_ori[:] = angular[:, self._arm_dofs]

    def update(self, force: bool = False) -> None:
        """Read the arm's state, at most once a substep; ``force`` computes all that follows from positions first."""
        if not (self.new_update or force):
            return
        if force:
            self.sim.forward()
        self.update_reference_data()
        self.joint_pos = self._arm_qpos.copy()
        self.joint_vel = self._data.qvel[self._arm_dofs].copy()
        mujoco.mj_fullM(self._model, self._inertia, self._data.qM)
        # Column by column, as robosuite's indexing leaves it: the order of a matrix decides how a product is rounded.
        self.mass_matrix = self._inertia[self._arm_dofs, self._arm_dofs].copy(order="F")
        self.new_update = False

    def soften(self, stiffness: np.ndarray, damping: np.ndarray) -> None:
        """Multiply the gains: ``float64[2]`` factors on stiffness and on damping ratio, of position and rotation."""
        self.kp = self.kp * np.repeat(stiffness, 3)
        self.kd = self.kd * np.repeat(np.sqrt(stiffness) * damping, 3)

    def set_goal(self, action: np.ndarray) -> None:
        """Set the step's goal: ``action`` is ``float64[6]`` from -1 to 1, relative to the achieved pose, in the base frame."""
        super().set_goal(action)
        self._wanted_position = self.origin_pos + np.dot(self.origin_ori, self.goal_pos)
        self._wanted_rotation = np.dot(self.origin_ori, self.goal_ori)

    def run_controller(self) -> np.ndarray:
        """``float64[7]``: the torques of one substep towards the step's goal."""
        self.update()
        turn = orientation_error(self._wanted_rotation, self.ref_ori_mat)
        force = self.kp[:3] * (self._wanted_position - self.ref_pos) - self.kd[:3] * self.ref_pos_vel
        torque = self.kp[3:] * turn - self.kd[3:] * self.ref_ori_vel
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(self.mass_matrix, self.J_full, self.J_pos, self.J_ori)
        wrench = np.concatenate([np.dot(lambda_pos, force), np.dot(lambda_ori, torque)])
        self.torques = np.dot(self.J_full.T, wrench) + self._data.qfrc_bias[self._arm_dofs]
        self.torques += nullspace_torques(self.mass_matrix, nullspace, self.initial_joint, self.joint_pos, self.joint_vel)
        self.new_update = True
        return self.torques


@register_composite_controller
class ArmAndGripper(CompositeController):
    """robosuite's composite of an arm's and a gripper's controller, with :class:`ArmController` for the arm."""

    name = "TABLETOP"

    def _init_controllers(self) -> None:
        arm, gripper = self.part_controller_config[ARM], self.part_controller_config[GRIPPER]
        self.part_controllers[ARM] = ArmController(**arm)
        self.part_controllers[GRIPPER] = controller_factory(GRIPPER, gripper["type"], gripper)
