"""A planner in place of CuRobo where there is no CUDA: screw motions and inverse kinematics, by mplib."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

#: Names of the planners; an initial state that one of them passes may be beyond the other.
CUROBO, MPLIB = "curobo", "mplib"

#: Physics steps a second, in which paths are sampled; and the longest path that upstream's own mplib planner accepts
#: (RoboTwin-Platform/RoboTwin@13c3c47 envs/robot/planner.py, ``MplibPlanner``).
FREQUENCY, LONGEST = 250, 2500

#: Physics steps in which a gripper closes or opens (same file, ``plan_grippers``).
GRIPPER_STEPS = 200

#: Where a pose is beyond a screw motion: tries of inverse kinematics, how far in rad from the present joints they begin, and the
#: greatest move of a joint that is taken without looking for a shorter one. Found by trying.
TRIES, SPREAD, SHORT = 6, 1.5, 1.2

#: The second and third joints do not go below 0; what is found somewhat below is taken, as the drive stops there.
LIFT_JOINTS, LEAST_LIFT = slice(1, 3), -0.05


@cache
def has_curobo() -> bool:
    """Whether CuRobo is installed and has a CUDA device."""
    if importlib.util.find_spec("curobo") is None:
        return False
    import torch

    return torch.cuda.is_available()


def planner_name() -> str:
    return CUROBO if has_curobo() else MPLIB


class MplibPlanner:
    """Plans one arm's paths; it has upstream's interface of ``CuroboPlanner``, and its results.

    The constructor's arguments are for CuRobo. Paths do not avoid collisions, as in RoboTwin's own edit of mplib
    (script/_install.sh).
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self._planner: Any = None

    def bind(self, planner: Any) -> None:
        """Plan with the kinematics and limits of upstream's own mplib planner of the arm."""
        self._planner = planner
        world = planner.planning_world
        planner.planning_world = SimpleNamespace(set_qpos_all=world.set_qpos_all, is_state_colliding=lambda: False)

    def plan_path(self, joints: np.ndarray, target: Any, constraint_pose: Any = None, arms_tag: Any = None) -> dict[str, Any]:
        """A path from all the robot's ``joints`` to a pose of the arm's last link in the world frame.

        Returns:
            ``status``, and where that is ``Success`` ``position`` and ``velocity``, ``float64[steps, 6]``.
        """
        import mplib

        planner, now = self._planner, np.array(joints, dtype=np.float64)
        pose = mplib.Pose(np.array(target.p), np.array(target.q))
        try:
            found = mplib.Planner.plan_screw(planner, pose, now, time_step=1 / FREQUENCY)
        except (RuntimeError, ValueError, np.linalg.LinAlgError):
            found = {"status": "failed"}
        if found["status"] == "Success" and len(found["position"]) < LONGEST:
            return {name: found[name] for name in ("status", "position", "velocity")}
        return self._joint_path(now, planner._transform_goal_to_wrt_base(pose))

    def plan_batch(self, joints: np.ndarray, targets: Any, constraint_pose: Any = None, arms_tag: Any = None) -> dict[str, Any]:
        """A path to each of several poses, as :meth:`plan_path`; ``status`` is ``Failure`` where there is none."""
        found = [self.plan_path(joints, target) for target in targets]
        columns: dict[str, Any] = {"status": ["Success" if path["status"] == "Success" else "Failure" for path in found]}
        columns |= {name: [path.get(name) for path in found] for name in ("position", "velocity")}
        return {name: _objects(values) for name, values in columns.items()}

    def plan_grippers(self, now: float, target: float) -> dict[str, Any]:
        """The way of a gripper, as upstream's planners plan it."""
        path = np.linspace(now, target, GRIPPER_STEPS)
        return {"num_step": GRIPPER_STEPS, "per_step": (target - now) / GRIPPER_STEPS, "result": path}

    def _joint_path(self, now: np.ndarray, pose: Any) -> dict[str, Any]:
        """A straight path in joint space to the nearest of some solutions of inverse kinematics."""
        planner = self._planner
        own = np.array(planner.move_group_joint_indices)
        fixed = np.ones(len(now), bool)
        fixed[own] = False
        link = planner.user_link_names.index(planner.move_group)
        rng, best, way = np.random.RandomState(0), None, np.inf
        for number in range(TRIES):
            start = now.copy()
            start[own] += rng.uniform(-SPREAD, SPREAD, len(own)) if number else 0.0
            solution, reached, _ = planner.pinocchio_model.compute_IK_CLIK(link, pose, start, list(fixed))
            angles = (np.array(solution)[own] + np.pi) % (2 * np.pi) - np.pi
            longest = np.abs(angles - now[own]).max()
            if reached and np.all(angles[LIFT_JOINTS] >= LEAST_LIFT) and longest < way:
                best, way = angles, longest
            if way < SHORT:
                break
        if best is None:
            return {"status": "Fail"}
        if way < 1e-3:
            still = np.tile(now[own], (2, 1))
            return {"status": "Success", "position": still, "velocity": np.zeros_like(still)}
        try:
            _, position, velocity, _, _ = planner.TOPP(np.stack([now[own], best]), 1 / FREQUENCY)
        except (RuntimeError, ValueError):
            return {"status": "Fail"}
        return {"status": "Success" if len(position) else "Fail", "position": position, "velocity": velocity}


def replace_curobo() -> None:
    """Have upstream's robots plan with :class:`MplibPlanner`."""
    module: Any = sys.modules["envs.robot.robot"]
    module.CuroboPlanner = MplibPlanner
    upstream = module.Robot.set_planner

    def set_planner(self: Any, scene: Any = None) -> None:
        upstream(self, scene)
        for side in ("left", "right"):
            getattr(self, f"{side}_planner").bind(getattr(self, f"{side}_mplib_planner").planner)

    module.Robot.set_planner = set_planner


def _objects(values: list[Any]) -> np.ndarray:
    """An array of objects, of which each may be an array of its own length."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
