"""The RoboCasa-GR1 adapter: upstream's own tasks, with frames rendered only where they are due."""

from __future__ import annotations

from typing import Any, Optional

import mujoco
import numpy as np

from ..api import Camera, Env, Episode, StepResult
from ..errors import VlarigError
from ..mujoco_shared import Canvas, integration_state
from .control import JointController
from .planner import plan
from .robot import GR00T_ORDER, ROBOCASA_GR1, ROBOCASA_GR1_GR00T, STARVLA_ORDER, split
from .upstream import PATCHES, reset_task, start_task

#: Physics steps of 2 ms in a control step of 50 ms (robosuite 1.5.1, macros.py; upstream's 20 Hz).
SUBSTEPS = 25

#: The physics step of a control step, counted from 0, after which upstream samples its cameras: the last one. They see the positions
#: that it began with (robosuite 1.5.1, environments/base.py, ``step``).
SAMPLED_SUBSTEP = 24

#: Height and width that upstream renders, and of the image that it makes of that (robocasa@4840e67, models/robots/__init__.py,
#: ``get_camera_config``; utils/gym_utils/gymnasium_groot.py, ``FINAL_IMAGE_RESOLUTION``).
RENDERED, IMAGE = (800, 1280), (256, 256)


#: Of a hand's eleven joints, from the thumb's turn to the little finger's tip, those that stand for the others (robocasa@4840e67,
#: models/robots/__init__.py, ``unformat_gripper_space``).
DRIVEN = [0, 1, 4, 6, 8, 10]


class SharedCanvas:
    """One graphics context for all envs of a process; it holds the meshes of one scene, a hundred megabytes, at a time."""

    def __init__(self) -> None:
        self._canvas: Optional[Canvas] = None
        self._model: Optional[mujoco.MjModel] = None

    def render(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str) -> np.ndarray:
        """The camera's image, ``uint8[800, 1280, 3]``."""
        if self._model is not model or self._canvas is None:
            self.close()
            options = mujoco.MjvOption()
            options.geomgroup[0] = 0  # what collides
            model.vis.global_.offheight, model.vis.global_.offwidth = RENDERED
            self._canvas, self._model = Canvas(model, RENDERED, options), model
        return self._canvas.render(model, qpos, camera, *RENDERED)

    def close(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = self._model = None


class RobocasaEnv(Env):
    """One env of RoboCasa-GR1's tasks.

    The payload is ``seed``, of all that a reset samples. The protocol's option ``success`` says when upstream's evaluator looks:
    at each ``step``, or at a ``chunk_end``.

    Args:
        canvas: Renders for the process's other envs too; a new one when ``None``.
    """

    embodiment = ROBOCASA_GR1
    patches = PATCHES
    order = STARVLA_ORDER
    """Order of the robot's parts in an action and in the state."""

    def __init__(self, canvas: Optional[SharedCanvas] = None) -> None:
        super().__init__()
        self.upstream: Any = None
        """Upstream's Gymnasium env of the task that was played last."""
        self.task: Any = None
        """Its task, a ``Tabletop``."""
        self.model: Any = None
        self.data: Any = None
        self._canvas = canvas or SharedCanvas()

    def sibling(self) -> RobocasaEnv:
        """A further env that renders with the same graphics context."""
        return type(self)(self._canvas)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Reset upstream's env; all that is sampled comes from the payload's seed."""
        if self.upstream is None or type(self.upstream.env).__name__ != episode.task:
            self.close()
            self.upstream, seen = start_task(episode.task, episode.payload["seed"])
        else:
            seen = reset_task(self.upstream, episode.payload["seed"])
        self.task = self.upstream.env
        self.model, self.data = self.task.sim.model._model, self.task.sim.data._data
        self._control = JointController(self.task.robots[0], self.model, self.data)
        self._shapes = np.concatenate([self.model.geom_size.ravel(), self.model.body_mass])
        self._every = episode.protocol.n_action_steps if episode.protocol.options["success"] == "chunk_end" else 1
        self._qpos = self.data.qpos.copy()
        return seen["annotation.human.coarse_action"]

    def apply(self, action: np.ndarray) -> StepResult:
        """One control step of 50 ms."""
        self.advance(action)
        reward, _, _ = self.task._post_action(action)
        success = reward > 0 and (self._step + 1) % self._every == 0
        return StepResult(float(reward), success, success)

    def advance(self, action: np.ndarray) -> None:
        goal = split(action.astype(np.float64), self.order)
        for substep in range(SUBSTEPS):
            mujoco.mj_step1(self.model, self.data)
            if substep == 0:
                self._control.set_goal(goal)
            self._control.apply()
            if substep == SAMPLED_SUBSTEP:
                self._qpos = self.data.qpos.copy()
            mujoco.mj_step2(self.model, self.data)

    def state(self) -> np.ndarray:
        """``float32[29]``: joint angles in rad, in the order of an action."""
        robot, parts = self.task.robots[0], {}
        for side in ("left", "right"):
            parts[f"{side}_arm"] = self.data.qpos[robot._ref_joints_indexes_dict[side]]
            fingers = self.data.qpos[robot._ref_joints_indexes_dict[f"{side}_gripper"]]
            parts[f"{side}_hand"] = fingers[DRIVEN][::-1]
        parts["waist"] = self.data.qpos[robot._ref_joints_indexes_dict["torso"]]
        return np.concatenate([parts[part] for part in self.order]).astype(np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        """The view at the time at which upstream samples, cropped and scaled by upstream's own function."""
        if (camera.height, camera.width) != IMAGE:
            raise VlarigError(
                f"the view {camera.view!r} was requested in {camera.height} x {camera.width}, and upstream's image has "
                f"{IMAGE[0]} x {IMAGE[1]}; render it in that size and have the protocol resize it"
            )
        return self.upstream.process_img_cotrain(
            self._canvas.render(self.model, self._qpos, self.embodiment.cameras[camera.view])
        )

    def simulator_state(self) -> np.ndarray:
        """MuJoCo's integration state, and the scene's shapes."""
        return np.concatenate([integration_state(self.model, self.data), self._shapes])

    def privileged(self) -> dict[str, np.ndarray]:
        """``plan``, ``float32[steps, 29]``, at an episode's start: steps that solve the task, or one that stays where it is."""
        if self._step or self.episode is None:
            return {}
        rows = plan(self)
        return {"plan": self.state()[None] if rows is None else rows}

    def close(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = self.task = self.model = self.data = None


class RobocasaGr00tEnv(RobocasaEnv):
    """The same tasks, with the robot's parts in the order of GR00T's data."""

    embodiment = ROBOCASA_GR1_GR00T
    order = GR00T_ORDER
