"""The LIBERO adapter: upstream's tasks, bit for bit, with frames rendered only where they are due."""

from __future__ import annotations

import math
from typing import Optional

import mujoco
import numpy as np

from ..api import Camera, Env, Episode, StepResult
from ..errors import VlarigError
from ..mujoco_shared import ObjectGeoms, integration_state
from ..scene_objects import SceneObject
from ..scene_pool import ScenePool
from .control import ArmController
from .robot import LIBERO_PANDA
from .scene import EnvState, Scene
from .upstream import PATCHES
from .words import words_of

#: Physics steps of 2 ms in a control step of 50 ms (robosuite 1.4.0, macros.py; LIBERO's 20 Hz).
SUBSTEPS = 25

#: The physics step of a control step, counted from 0, after which upstream samples cameras and proprioception. Its observables keep a
#: clock that the two forced updates of ``reset`` and ``set_init_state`` advance by 2 ms each; so the period of 50 ms ends two steps
#: early in every control step, and the step after that samples (robosuite 1.4.0, utils/observables.py, Observable.update).
SAMPLED_SUBSTEP = 23

HAND = "robot0_right_hand"


class LiberoEnv(Env):
    """One env of LIBERO's suites.

    An episode's suite and task name upstream's task, its ``initial_state`` a row of upstream's initial states, unless the payload says
    ``sampled``: then upstream's samplers place the objects. The payload holds the ``instruction``.

    Args:
        pool: The scenes to share with the process's other envs; a new pool when ``None``.
    """

    embodiment = LIBERO_PANDA
    patches = PATCHES

    def __init__(self, pool: Optional[ScenePool[Scene]] = None) -> None:
        super().__init__()
        self._pool = pool or ScenePool(Scene)
        self._scene: Optional[Scene] = None

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Place the fixtures by the process-wide generator, as upstream does, and set the initial state, if there is one."""
        self._enter_task(episode.suite, episode.task)
        sampled = bool(episode.payload.get("sampled"))
        if not sampled and not 0 <= episode.initial_state < len(self.scene.init_states):
            raise VlarigError(
                f"task {episode.task!r} has the initial states 0 to {len(self.scene.init_states) - 1}, got {episode.initial_state}"
            )
        self.scene.reset(self._env_state, None if sampled else episode.initial_state)
        self._control = ArmController(self.scene.upstream.robots[0], self.scene.model, self._env_state.data)
        self._sample(self._env_state.data.qpos.copy())
        return episode.payload["instruction"]

    def apply(self, action: np.ndarray) -> StepResult:
        """One control step of 50 ms."""
        model, data = self.scene.model, self._env_state.data
        self.scene.enter(self._env_state)
        for substep in range(SUBSTEPS):
            self._control.evaluate()
            if substep == 0:
                self._control.set_goal(action.astype(np.float64))
            self._control.apply()
            before = data.qpos.copy() if substep == SAMPLED_SUBSTEP else None
            mujoco.mj_step2(model, data)
            if before is not None:
                self._sample(before)
        success = self.scene.succeeds()
        return StepResult(float(success), success, success)

    def state(self) -> np.ndarray:
        """``float32[8]``: grip site in the world frame, the hand's rotation vector, fingers; as upstream sampled them."""
        return np.concatenate([self._position, rotation_vector(self._quaternion), self._fingers]).astype(np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        """The view at the time that upstream samples."""
        self.scene.enter(self._env_state)
        now = self.scene.model.site_rgba.copy()
        self.scene.model.site_rgba[:] = self._site_rgba
        name = self.embodiment.cameras[camera.view]
        image = self.scene.canvas.render(self.scene.model, self._qpos, name, camera.height, camera.width)
        self.scene.model.site_rgba[:] = now
        return image

    def simulator_state(self) -> np.ndarray:
        """MuJoCo's integration state, the controller's state, where the fixtures are, and which sites are seen."""
        self.scene.enter(self._env_state)
        model, memory = self.scene.model, self._control.memory()
        state = integration_state(model, self._env_state.data)
        return np.concatenate([state, memory, model.body_pos.ravel(), model.body_quat.ravel(), model.site_rgba[:, 3]])

    def privileged(self) -> dict[str, np.ndarray]:
        """Where objects are at the end of the control step, in the world frame.

        ``pose/<name>`` is ``float64[7]``, position and quaternion ``wxyz`` of each object's and fixture's body; ``points/<name>`` is
        ``float64[points, 3]``, points that span its collision geometry; ``grip`` is ``float64[7]``, the grip site's position and the
        hand's quaternion.
        """
        data = self._env_state.data
        truth = {"grip": np.concatenate([data.site_xpos[self._grip_site], data.xquat[self._hand]])}
        for name, body in self.scene.bodies.items():
            truth[f"pose/{name}"] = np.concatenate([data.xpos[body], data.xquat[body]])
            truth[f"points/{name}"] = self.scene.shape(name).in_world(data)
        return truth

    def describe(self, camera: Camera) -> list[SceneObject]:
        """Objects and fixtures at the time that upstream samples, under the names of the instructions."""
        self.scene.enter(self._env_state)
        model = self.scene.model
        roots = model.body_rootid[model.geom_bodyid]
        roles = self.scene.roles()
        objects = []
        for name, body in self.scene.bodies.items():
            words = words_of(name)
            if words is not None:
                geoms = np.flatnonzero(roots == body)
                objects.append(ObjectGeoms(" ".join(words).strip(), words[1], words[0], geoms, roles.get(name, "")))
        source = self.embodiment.cameras[camera.view]
        return self.scene.canvas.find(model, self._qpos, source, camera.height, camera.width, objects)

    def sibling(self) -> LiberoEnv:
        return type(self)(self._pool)

    def close(self) -> None:
        """Give the task's scene back to the process."""
        if self._scene is not None:
            self._scene.leave()
            self._pool.give_back(*self._task)
            self._scene = None

    @property
    def scene(self) -> Scene:
        assert self._scene is not None, "no episode was started"
        return self._scene

    def _enter_task(self, suite: str, task: str) -> None:
        if self._scene is not None and self._task == (suite, task):
            return
        self.close()
        self._scene = self._pool.borrow(suite, task)
        self._task = (suite, task)
        self._env_state: EnvState = self._scene.new_env_state()
        robot = self._scene.upstream.robots[0]
        self._grip_site = robot.eef_site_id
        self._hand = self._scene.model.body(HAND).id
        self._finger_qpos = [int(index) for index in robot._ref_gripper_joint_pos_indexes]

    def _sample(self, qpos: np.ndarray) -> None:
        """Keep what upstream's sensors see now.

        Positions of bodies are those that the last physics step began with, at ``qpos``; joints are already a step further.
        """
        data = self._env_state.data
        self._qpos = qpos
        self._site_rgba = self.scene.model.site_rgba.copy()
        self._position = data.site_xpos[self._grip_site].copy()
        self._quaternion = data.xquat[self._hand].copy()
        self._fingers = data.qpos[self._finger_qpos]


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """``float64[3]``: axis times angle, from 0 to 2 pi, of a quaternion ``wxyz``, as the evaluators compute it.

    Source: openpi, examples/libero/main.py, ``_quat2axisangle``, which all four evaluators share.
    """
    w = min(max(float(quaternion[0]), -1.0), 1.0)
    sine = np.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return (quaternion[1:] * 2.0 * math.acos(w)) / sine
