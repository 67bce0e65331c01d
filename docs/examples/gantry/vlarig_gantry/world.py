"""The benchmark as its authors publish it: the simulator, the goals and when they are reached.

In real life this is a package in the runtime, which the adapter imports; it is here so that the example is complete.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

MODEL = Path(__file__).with_name("gantry.xml")
PUCKS, GOALS, AXES = ("red", "blue"), ("yellow", "green"), ("x", "y", "z")

#: The finger's target moves this far (m) at an action of 1, and a control step has this many steps of physics: 10 Hz.
REACH, SUBSTEPS = 0.02, 20
#: A puck is at a goal when their centres are this near (m).
TOLERANCE = 0.02


class World:
    """A finger that pushes pucks; ``model`` is :data:`MODEL`, compiled, and is never changed."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model = model
        self.data = mujoco.MjData(model)

    def reset(self, seed: int) -> None:
        """Place the pucks in front, the goals behind and the finger between them, all sampled from ``seed``."""
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        for names, y in ((PUCKS, -0.11), (GOALS, 0.12)):
            for name, x in zip(names, rng.permutation([-0.12, 0.12])):
                place = np.array([x, y]) + rng.uniform(-0.03, 0.03, 2)
                if name in PUCKS:
                    self.data.joint(name).qpos[:2] = place
                else:
                    self.data.mocap_pos[self.model.body(name).mocapid[0], :2] = place
        for axis, place in zip(AXES, (*rng.uniform(-0.05, 0.05, 2), 0.06)):
            self.data.joint(axis).qpos[0] = place
        self.data.ctrl[:] = self.finger
        mujoco.mj_forward(self.model, self.data)

    def step(self, move: np.ndarray) -> None:
        """Move the finger's target by ``move``, ``[3]``, clipped to -1 to 1, within what the actuators reach."""
        low, high = self.model.actuator_ctrlrange.T
        self.data.ctrl[:] = np.clip(self.data.ctrl + REACH * np.clip(move, -1.0, 1.0), low, high)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        mujoco.mj_forward(self.model, self.data)  # bodies and cameras are where the last step of physics left the joints

    @property
    def finger(self) -> np.ndarray:
        """``float64[3]``: the finger's tip."""
        return np.array([self.data.joint(axis).qpos[0] for axis in AXES])

    def place(self, name: str) -> np.ndarray:
        """``float64[2]``: the centre of a puck or a goal."""
        return self.data.body(name).xpos[:2].copy()

    def distance(self, goals: dict[str, str]) -> float:
        """How far (m) the puck that is furthest from its goal is; ``goals`` names the goal of each puck that has one."""
        return max(float(np.linalg.norm(self.place(puck) - self.place(goal))) for puck, goal in goals.items())

    def solved(self, goals: dict[str, str]) -> bool:
        """Whether each of those pucks is at its goal."""
        return self.distance(goals) < TOLERANCE
