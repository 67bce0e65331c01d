"""LIBERO's evaluation loop as the public evaluators write it: what parity and measurements compare the adapter with.

They make ``OffScreenRenderEnv``, seed it, reset it, set an initial state, wait ten steps, then act, with both cameras rendered at
every step. It is seeded with each episode's own seed here. Rendering takes nine tenths of its time, so images that are not read are
black.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Callable

import mujoco
import numpy as np
from PIL import Image

from ..api import Camera, Episode
from ..mujoco_shared import bare_steps, integration_state
from ..parity import Upstream, Verdict
from ..robosuite_loop import blank, render_here
from .env import SUBSTEPS, LiberoEnv
from .init_states import read_init_states
from .upstream import assets_folder, import_upstream

VIEWS = {"ego": "agentview_image", "cam_left_wrist": "robot0_eye_in_hand_image"}


class LiberoEvaluator(Upstream[LiberoEnv]):
    """The evaluators' loop over one task; without seeing, upstream's class for that."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        import_upstream()
        from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

        folder, camera = assets_folder(), episode.protocol.cameras[0].as_drawn
        bddl = str(folder / "bddl_files" / episode.suite / f"{episode.task}.bddl")
        sizes = {"camera_heights": camera.height, "camera_widths": camera.width}
        blind = {"use_camera_obs": False, "has_offscreen_renderer": False}
        self._make = lambda: (
            OffScreenRenderEnv(bddl_file_name=bddl, **sizes) if seeing else ControlEnv(bddl_file_name=bddl, **blind)
        )
        self._seeing = seeing
        self._played = False
        self.init_states = read_init_states(folder / "init_files" / episode.suite / f"{episode.task}.pruned_init")
        with blank():
            self.env: Any = self._make()

    def reset(self, episode: Episode) -> None:
        """The evaluators', in a new env where a reset leaves something for the next: it appends samplers of joints once more."""
        with blank():
            if self._played and self.env.env.object_property_initializers:
                self.env = self._make()
            self._begin(episode)
            waiting = list(episode.protocol.wait_action)
            for _ in range(episode.protocol.wait_steps - 1):
                self.env.step(waiting)
        self._seen = self.env.step(waiting)[0]
        self._cameras = episode.protocol.cameras
        self._played = True

    def begin_again(self, episode: Episode) -> None:
        """The evaluators', with every image."""
        self._begin(episode)
        for _ in range(episode.protocol.wait_steps):
            self.env.step(list(episode.protocol.wait_action))

    def _begin(self, episode: Episode) -> None:
        render_here(self.env.sim)
        self.env.seed(episode.seed)
        self.env.reset()
        self.env.set_init_state(self.init_states[episode.initial_state])

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        render_here(self.env.sim)
        with nullcontext() if look else blank():
            self._seen, reward, done, _ = self.env.step(action.tolist())
        return Verdict(reward, done, over=done)

    def state(self) -> list[np.ndarray]:
        return everything(self.env.sim.model._model, self.env.sim.data._data)

    def state_of(self, env: LiberoEnv) -> list[np.ndarray]:
        return everything(env.scene.model, env._env_state.data)

    def observation(self) -> dict[str, np.ndarray]:
        """Images as the evaluators turn and resize them, and the state that they make."""
        seen = self._seen
        rotation = axis_angle(seen["robot0_eef_quat"])
        state = np.concatenate([seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"]]).astype(np.float32)
        views = {camera.view: evaluators_image(seen[VIEWS[camera.view]], camera) for camera in self._cameras if self._seeing}
        return {"state": state, **views}

    def bare_physics(self, env: LiberoEnv) -> Callable[[], Any]:
        return bare_steps(env.scene.model, env._env_state.data, SUBSTEPS)


def everything(model: mujoco.MjModel, data: mujoco.MjData) -> list[np.ndarray]:
    """All of the physics state, the solver's warm start and the last commands included, and what differs in the models."""
    return [integration_state(model, data), model.body_pos.copy(), model.body_quat.copy(), model.site_rgba.copy()]


def evaluators_image(image: np.ndarray, camera: Camera) -> np.ndarray:
    """What the evaluators make of upstream's bottom-up image: turned by 180 degrees, and resized by Pillow if the protocol resizes."""
    turned = np.ascontiguousarray(image[::-1, ::-1])
    if not camera.resize:
        return turned
    return np.asarray(Image.fromarray(turned).resize((camera.width, camera.height), Image.Resampling.BILINEAR))


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The evaluators' formula, for ``xyzw`` (openpi, examples/libero/main.py, ``_quat2axisangle``)."""
    sine = np.sqrt(1.0 - quaternion[3] * quaternion[3])
    return np.zeros(3) if math.isclose(sine, 0.0) else quaternion[:3] * 2.0 * math.acos(quaternion[3]) / sine
