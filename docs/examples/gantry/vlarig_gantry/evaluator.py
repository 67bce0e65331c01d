"""The benchmark's own evaluation loop, with which the adapter is compared; it shares with the adapter nothing but the simulator."""

from __future__ import annotations

import mujoco
import numpy as np

from vlarig.envs.api import Episode
from vlarig.envs.parity import Upstream, Verdict

from .env import EVERYTHING, GantryEnv
from .world import MODEL, World

#: The rule of the authors' two evaluators: for how many control steps in succession pucks have to be at their goals.
HOLD = {"standard": 1, "at_rest": 10}

#: View to the camera and the size that the authors render.
VIEWS = {"ego": ("front", 128), "cam_left_wrist": ("hand", 96)}


class GantryEvaluator(Upstream[GantryEnv]):
    """The authors' loop."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        self._world = World(mujoco.MjModel.from_xml_path(str(MODEL)))
        self._renderers = {view: mujoco.Renderer(self._world.model, size, size) for view, (_, size) in VIEWS.items() if seeing}

    def reset(self, episode: Episode) -> None:
        """Place everything by the seed, which is the number of the initial state."""
        self._goals, self._hold, self._held = episode.payload["goals"], HOLD[episode.protocol.name], 0
        self._world.reset(episode.initial_state)

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        """One control step; the episode ends when the pucks have been at their goals for long enough."""
        self._world.step(action.astype(np.float64))
        solved = self._world.solved(self._goals)
        self._held = self._held + 1 if solved else 0
        return Verdict(float(solved), solved, {"distance": self._world.distance(self._goals)}, self._held >= self._hold)

    def state(self) -> list[np.ndarray]:
        """MuJoCo's integration state."""
        state = np.empty(mujoco.mj_stateSize(self._world.model, EVERYTHING))
        mujoco.mj_getState(self._world.model, self._world.data, state, EVERYTHING)
        return [state]

    def observation(self) -> dict[str, np.ndarray]:
        """Both cameras' images, and the finger's tip."""
        images = {}
        for view, renderer in self._renderers.items():
            renderer.update_scene(self._world.data, VIEWS[view][0])
            images[view] = renderer.render()
        return {"state": self._world.finger.astype(np.float32), **images}

    def close(self) -> None:
        """Free the graphics contexts."""
        for renderer in self._renderers.values():
            renderer.close()
