"""One scene of upstream's: set to an initial state, moved by a step, rendered."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
import torch

from .camera import OverlaidCamera
from .upstream import make_scene

#: Physics steps in which objects come to rest: ``_settle(0.5)``, and ``_settle(6)`` for those that still move (mani_skill 3.0.1,
#: envs/tasks/digital_twins/bridge_dataset_eval/base_env.py, ``_initialize_episode``; upstream divides by the control frequency).
SETTLING_STEPS = 50
FURTHER_SETTLING_STEPS = 600
#: Sums of the objects' speeds (m/s) and turning speeds (rad/s) above which they get the further steps (same place).
STILL_SPEED = 1e-3
STILL_TURN = 1e-2

#: Where the robot is loaded, its joints at 0 (same file, ``_load_agent``); objects settle before it goes home.
LOADED_POSE = sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1])

#: Where the robot's base and joints begin, by upstream's name of the setting (same file, ``_initialize_episode``).
HOMES = {
    "flat_table": (
        sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1]),
        [-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037],
    ),
    "sink": (
        sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1]),
        [-0.2600599, -0.12875618, 0.04461369, -0.00652761, 1.7033415, -0.26983038, 0.037, 0.037],
    ),
}

#: Where a finger is closed and open, in m (same file, ``gripper_pd_joint_pos`` without its clearance).
FINGER_CLOSED, FINGER_OPEN = 0.015, 0.037


class Scene:
    """A scene of upstream's, and its robot.

    Positions are in m in the world frame, whose x axis points from the table to the robot and whose y axis to the right of the
    image; quaternions are ``wxyz``.

    Args:
        name: Upstream's environment.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.upstream = make_scene(name)
        self.bodies: dict[str, sapien.physx.PhysxRigidDynamicComponent] = {
            model: actor._bodies[0] for model, actor in self.upstream.objs.items()
        }
        (self.robot,) = self.upstream.agent.robot._objs
        self.links = {link.entity.name: link for link in self.robot.links}
        self.camera = OverlaidCamera(self.upstream, "3rd_view_camera")
        self._substeps = self.upstream._sim_steps_per_control
        self._home = HOMES[self.upstream.scene_setting]

    @property
    def physics(self) -> sapien.physx.PhysxCpuSystem:
        """PhysX's scene; each episode has its own."""
        return self.upstream.scene.px

    def reset(self, objects: dict[str, list[float]]) -> None:
        """Place the objects and the robot as upstream does in an env that was just made.

        That is upstream's reset with ``reconfigure``, at a small part of its price: PhysX's scene is made again, and what is in it is
        kept. A scene that was used before keeps contacts and the order of bodies, and the last bits of an episode in it would
        depend on the episodes before.

        Args:
            objects: Model to its pose before settling, position and quaternion.
        """
        self._renew_physics()
        self._place_robot(LOADED_POSE, [0.0] * len(self.robot.qpos))
        for joint in self.robot.active_joints:
            joint.set_drive_target(0.0)
        for model, body in self.bodies.items():
            pose = np.array(objects[model], dtype=np.float32)
            body.entity.set_pose(sapien.Pose(pose[:3], pose[3:]))
            body.set_linear_velocity(np.zeros(3))
            body.set_angular_velocity(np.zeros(3))
        self._run(SETTLING_STEPS)
        speeds = [np.linalg.norm(body.linear_velocity) for body in self.bodies.values()]
        turns = [np.linalg.norm(body.angular_velocity) for body in self.bodies.values()]
        if sum(speeds) > STILL_SPEED or sum(turns) > STILL_TURN:
            self._run(FURTHER_SETTLING_STEPS)
        self._place_robot(*self._home)
        self.upstream.agent.controller.reset()

    def step(self, action: np.ndarray) -> None:
        """One control step of 0.2 s.

        Args:
            action: ``float32[7]`` as mani-skill takes it: m, angles about moving axes in rad, gripper from -1 (closed) to 1 (open).
        """
        self.upstream.agent.set_action(torch.from_numpy(action)[None])
        self._run(self._substeps)

    def pose(self, model: str) -> np.ndarray:
        """Where an object is, ``float64[7]``: the centre of its model's box, and its quaternion."""
        return pose_numbers(self.bodies[model].entity.pose)

    def extent(self, model: str) -> np.ndarray:
        """The sides of the box about an object's model along its own axes, ``float64[3]`` in m."""
        box = self.upstream.model_db[model]["bbox"]
        return np.array(box["max"]) - np.array(box["min"])

    def hand(self) -> np.ndarray:
        """The link between the fingers, ``float64[7]``; its x axis points from the wrist to the fingertips."""
        return pose_numbers(self.links["ee_gripper_link"].entity_pose)

    def commanded(self) -> np.ndarray:
        """The controller's target of the hand, ``float64[7]``."""
        return pose_numbers(self.robot.pose * self._target_pose().sp)

    def lead(self) -> np.ndarray:
        """From the hand to the controller's target, ``float64[3]`` in the base frame."""
        hand = self.robot.pose.inv() * self.links["ee_gripper_link"].entity_pose
        return self._target_pose().sp.p.astype(np.float64) - hand.p

    def base(self) -> np.ndarray:
        """The robot's base, ``float64[7]``."""
        return pose_numbers(self.robot.pose)

    def openness(self) -> float:
        """How far the fingers are open, from 0 to 1."""
        fingers = float(np.mean(self.robot.qpos[-2:]))
        return min(max((fingers - FINGER_CLOSED) / (FINGER_OPEN - FINGER_CLOSED), 0.0), 1.0)

    def physics_state(self) -> np.ndarray:
        """The state that decides the physics' future, as one ``float64`` array: bodies, joints, and the controller's state."""
        numbers = [self.robot.qpos, self.robot.qvel, *(joint.drive_target for joint in self.robot.active_joints)]
        for body in self.bodies.values():
            numbers += [pose_numbers(body.entity.pose), body.linear_velocity, body.angular_velocity]
            numbers.append([float(body.is_sleeping)])
        numbers.append(self._target_pose().raw_pose[0].numpy())
        return np.concatenate([np.asarray(each, dtype=np.float64).ravel() for each in numbers])

    def close(self) -> None:
        self.upstream.close()

    def _renew_physics(self) -> None:
        """Move everything, in its order, to a new scene of PhysX."""
        (old,) = self.upstream.scene.sub_scenes
        physics = sapien.physx.PhysxCpuSystem()
        physics.timestep = self.physics.timestep
        new = sapien.Scene([physics, old.render_system])
        entities = list(old.entities)
        for entity in reversed(entities):
            old.remove_entity(entity)
        for entity in entities:
            new.add_entity(entity)
        self.upstream.scene.sub_scenes[0] = new
        self.upstream.scene.px = physics

    def _target_pose(self) -> Any:
        """The target of upstream's controller for the hand, in the base frame."""
        return self.upstream.agent.controller.controllers["arm"]._target_pose

    def _place_robot(self, pose: sapien.Pose, joints: list[float]) -> None:
        self.robot.set_pose(pose)
        self.robot.set_qpos(np.array(joints, dtype=np.float32))
        self.robot.set_qvel(np.zeros(len(joints)))
        self.robot.set_qf(np.zeros(len(joints)))

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self.physics.step()


def pose_numbers(pose: sapien.Pose) -> np.ndarray:
    """Position and quaternion, ``float64[7]``."""
    return np.concatenate([pose.p, pose.q]).astype(np.float64)
