"""The tabletop scene as robosuite runs a scene, placed as our env is: what parity and measurements compare the adapter with.

It has what ours omits: robosuite's observables of the robot, its controllers' own code, its visual meshes, materials and lamps. It has
no observables of objects, no reward and no goal, which robosuite's own tasks have.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, Optional

import numpy as np

from ..api import Episode
from ..mujoco_shared import ROBOSUITE_LOG, bare_steps
from ..parity import Upstream, Verdict
from ..robosuite_loop import blank, render_here
from ..upstream import quiet
from .env import TabletopEnv
from .scene import SUBSTEPS, TabletopScene

with quiet(ROBOSUITE_LOG):
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv


class _Scene(TabletopScene):
    """Our scene with robosuite's own methods put back."""

    _setup_observables = ManipulationEnv._setup_observables
    edit_model_xml = ManipulationEnv.edit_model_xml


class RobosuiteLoop(Upstream[TabletopEnv]):
    """robosuite's own loop."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        camera = episode.protocol.cameras[0]
        cameras = {
            "camera_names": ["ego", "robot0_eye_in_hand"],
            "camera_heights": camera.height,
            "camera_widths": camera.width,
        }
        self.scene = _Scene(**cameras if seeing else {})
        self._poses = {}

    def follow(self, env: TabletopEnv) -> None:
        """Put everything where our env, at the start of the episode, has it."""
        for name in (f"{kind}_{number}" for kind in ("tray", "zone") for number in range(2)):
            self.scene.raw_model.body(name).pos[:] = env._model.body(name).pos
        self._poses = {body: env._qpos[body].copy() for names in self.scene.bodies.values() for body in names}

    def reset(self, episode: Episode) -> None:
        render_here(self.scene.sim)
        self.scene.place({body: pose.copy() for body, pose in self._poses.items()})

    def step(self, action: np.ndarray, look: bool = True) -> Optional[Verdict]:
        """One control step; goals are judged outside the scene."""
        with nullcontext() if look else blank():
            self.scene.step(action.astype(np.float64))
        return None

    def state(self) -> list[np.ndarray]:
        """Positions and velocities."""
        return [self.scene.raw_data.qpos.copy(), self.scene.raw_data.qvel.copy()]

    def state_of(self, env: TabletopEnv) -> list[np.ndarray]:
        return [env._data.qpos.copy(), env._data.qvel.copy()]

    def observation(self) -> dict[str, np.ndarray]:
        """Nothing: ours is rendered from other geometry."""
        return {}

    def bare_physics(self, env: TabletopEnv) -> Callable[[], Any]:
        return bare_steps(env._model, env._data, SUBSTEPS)
