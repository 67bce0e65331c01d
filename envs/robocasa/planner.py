"""Plans of an expert: one hand grasps the object from above, carries it over the container, and lets go.

Hand and waist are moved by inverse kinematics from the scene's truth. Whether fingers hold a box depends on contacts, so each way to
grasp it is tried in the simulation, until upstream's own check is passed; then the simulation is put back.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Optional

import mujoco
import numpy as np

from ..mujoco_shared import integration_state
from .robot import split

if TYPE_CHECKING:
    from .env import RobocasaEnv

#: Control steps of a move from one pose of the hand to the next, of a wait for it to arrive (the joints lag by 0.2 s), and of fingers
#: that close or open.
MOVE, ARRIVE, FINGERS = 24, 8, 16

#: A hand's numbers with its thumb opposed to straight fingers, and closed.
OPEN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.6])
CLOSED = np.array([1.3, 1.3, 1.3, 1.3, 0.6, 1.6])

#: Where a held object is in the frame of the right hand's grip site, in m: x to the little finger, -y along the fingers, z out of the
#: palm; z is its top's.
GRASP = np.array([-0.012, -0.066, 0.045])

#: How far above the table's objects a hand travels, in m, and how far it withdraws: upstream's check wants it 0.25 m away.
TRAVEL, RETREAT = np.array([0.0, 0.0, 0.16]), np.array([0.0, -0.22, 0.3])

#: Differences from GRASP that are tried, in m, after grasps along each of the object's sides.
SHIFTS = np.array([[0.0, 0.0, 0.0], [0.0, -0.012, 0.0], [0.0, 0.012, 0.0], [-0.012, 0.0, 0.0]])


class Planner:
    """Plans with one hand, ``right`` or ``left``, of an env that has just begun an episode."""

    def __init__(self, env: RobocasaEnv, side: str) -> None:
        self.env, self.task = env, env.task
        self.model, self.data = env.model, env.data
        robot = self.task.robots[0]
        self.side, self.site = side, robot.eef_site_id[side]
        self.mirror = np.array([1.0 if self.side == "right" else -1.0, 1.0, 1.0])
        moved = [*robot._ref_joints_indexes_dict[self.side], *robot._ref_joints_indexes_dict["torso"]]
        self.joints = np.array(moved)
        self.weights = np.array([1.0] * 7 + [0.15] * 3)
        self.scratch = mujoco.MjData(self.model)
        self.start = env.state().astype(np.float64)
        self.row = self.start.copy()
        self.rows: list[np.ndarray] = []

    def way(self) -> float:
        """How far the hand is from the object and from the container together, in m; the idle hand must be far from both."""
        return sum(float(np.linalg.norm(self.data.site_xpos[self.site] - self.place(name))) for name in ("obj", "container"))

    def place(self, name: str) -> np.ndarray:
        """Where an object is, in the world, in m."""
        return self.data.xpos[self.task.obj_body_id[name]].copy()

    def top(self, name: str) -> float:
        """Height of the object's top over its origin, in m."""
        return float(self.task.objects[name].top_offset[2])

    def grasps(self) -> list[tuple[np.ndarray, float]]:
        """Ways to grasp, with fingers across the object's shorter side and near the robot's front first.

        Each is a shift from :data:`GRASP`, and the angle of the fingers about the vertical from the robot's front, in rad.
        """
        quaternion = self.data.xquat[self.task.obj_body_id["obj"]]
        yaw = 2 * np.arctan2(quaternion[3], quaternion[0])
        sizes = np.ptp(self.task.objects["obj"].get_bbox_points(), axis=0) / 2
        turns = [yaw + quarter * np.pi / 2 for quarter in range(4) if sizes[(quarter + 1) % 2] < 0.036]
        turns = sorted(
            ((turn + np.pi) % (2 * np.pi) - np.pi for turn in turns), key=lambda turn: abs(turn - 0.3 * self.mirror[0])
        )
        return list(product(SHIFTS, turns[:2]))

    def solve(self, position: np.ndarray, rotation: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
        """Angles of the joints that bring the grip site there, by damped least squares, and how far they miss, in m and rad."""
        model, data = self.model, self.scratch
        angles, low, high = first.copy(), *model.jnt_range[self.joints].T
        jacobian, error = np.zeros((6, model.nv)), np.zeros(6)
        data.qpos[:] = self.data.qpos
        for _ in range(150):
            data.qpos[self.joints] = angles
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self.site)
            turned = rotation @ data.site_xmat[self.site].reshape(3, 3).T
            quaternion, turn = np.empty(4), np.empty(3)
            mujoco.mju_mat2Quat(quaternion, turned.ravel())
            mujoco.mju_quat2Vel(turn, quaternion, 1.0)
            error = np.concatenate([position - data.site_xpos[self.site], 0.3 * turn])
            if np.linalg.norm(error) < 1e-3:
                break
            ways = jacobian[:, self.joints] * self.weights
            ways[3:] *= 0.3
            step = self.weights * (ways.T @ np.linalg.solve(ways @ ways.T + 1e-4 * np.eye(6), error))
            angles = np.clip(angles + np.clip(step, -0.2, 0.2), low + 0.02, high - 0.02)
        return angles, float(np.linalg.norm(error))

    def play(self, row: np.ndarray, steps: int) -> None:
        """Move to that step's targets, at an even pace, and note the steps."""
        for share in np.linspace(0, 1, steps + 1)[1:]:
            self.rows.append((1 - share) * self.row + share * row)
            self.env.advance(self.rows[-1].astype(np.float32))
        self.row = row

    def set_part(self, row: np.ndarray, part: str, numbers: np.ndarray) -> np.ndarray:
        """The step with other numbers for a part."""
        return np.concatenate(list({**split(row, self.env.order), part: numbers}.values()))

    def reach(self, position: np.ndarray, rotation: np.ndarray, steps: int = MOVE) -> bool:
        """Bring the grip site there; whether it can be."""
        angles, missed = self.solve(position, rotation, self.angles)
        if missed > 0.03:
            return False
        self.angles = angles
        row = self.set_part(self.row, f"{self.side}_arm", angles[:7])
        self.play(self.set_part(row, "waist", angles[7:]), steps)
        self.play(self.row, ARRIVE)
        return True

    def hand(self, numbers: np.ndarray) -> None:
        self.play(self.set_part(self.row, f"{self.side}_hand", numbers), FINGERS)

    def attempt(self, shift: np.ndarray, turn: float) -> bool:
        """Play one way to do it from the start; whether the task is solved then."""
        self.rows, self.row = [], self.start.copy()
        self.angles = self.data.qpos[self.joints].copy()
        forward = np.array([-np.sin(turn), np.cos(turn), 0.0])
        down = np.array([0.0, 0.0, -1.0])
        rotation = np.stack([np.cross(-forward, down), -forward, down], axis=1)
        inside = self.mirror * (GRASP + shift)
        origin = self.place("obj")
        at = origin - self.top("obj") * down - rotation @ inside
        self.hand(OPEN)
        if not (self.reach(at + TRAVEL, rotation) and self.reach(at, rotation)):
            return False
        self.hand(CLOSED)
        if not self.reach(at + TRAVEL, rotation) or self.place("obj")[2] < origin[2] + TRAVEL[2] / 2:
            return False
        held = self.data.site_xpos[self.site] - self.place("obj")
        goal = self.place("container") - (self.top("container") + self.top("obj") + 0.01) * down
        above = goal + held - 0.06 * down
        if not (self.reach(above, rotation, 2 * MOVE) and self.reach(goal + held, rotation, MOVE)):
            return False
        self.hand(OPEN)
        self.reach(above, rotation)
        self.reach(above + RETREAT, rotation)
        self.play(self.row, ARRIVE)
        self.task.update_state()
        return bool(self.task._check_success())


def plan(env: RobocasaEnv) -> Optional[np.ndarray]:
    """Steps that solve the task from here, ``float32[steps, 29]``; ``None`` where none are found. The simulation is as it was then."""
    task = env.task
    if "container" not in task.objects:
        return None
    planners = sorted((Planner(env, side) for side in ("right", "left")), key=Planner.way)
    kept, qpos = integration_state(env.model, env.data), env._qpos

    def put_back() -> None:
        mujoco.mj_setState(env.model, env.data, kept, mujoco.mjtState.mjSTATE_INTEGRATION.value)
        mujoco.mj_fwdPosition(env.model, env.data)
        task.update_state()
        env._qpos = qpos

    try:
        for planner in planners:
            for grasp in planner.grasps():
                if planner.attempt(*grasp):
                    return np.array(planner.rows, np.float32)
                put_back()
        return None
    finally:
        put_back()
