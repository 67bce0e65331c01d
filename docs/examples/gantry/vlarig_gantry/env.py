"""The adapter: it runs in the simulator's interpreter, and is all that knows the simulator."""

from __future__ import annotations

from typing import Optional

import mujoco
import numpy as np

from vlarig.envs.api import Camera, Env, Episode, StepResult

from .robot import ROBOT
from .world import GOALS, MODEL, PUCKS, World

#: All of the simulation that decides its future: joints, velocities, targets, goals, the solver's warm start.
EVERYTHING = mujoco.mjtState.mjSTATE_INTEGRATION.value


class Rendering:
    """What the envs of a process share: the compiled model, which no episode changes, and a renderer for each size of image."""

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(MODEL))
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def render(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """The camera's image, ``uint8[height, width, 3]``, upright."""
        renderer = self._renderers.get((height, width))
        if renderer is None:
            renderer = self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
        renderer.update_scene(data, camera)
        return renderer.render()

    def close(self) -> None:
        """Free the graphics contexts; they are made again if an env renders once more."""
        while self._renderers:
            self._renderers.popitem()[1].close()


class GantryEnv(Env):
    """One env: a simulation of its own, rendered with what all envs of the process share."""

    embodiment = ROBOT

    def __init__(self, rendering: Optional[Rendering] = None) -> None:
        super().__init__()
        self._rendering = rendering or Rendering()
        self._world = World(self._rendering.model)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Reset the whole simulation; nothing is sampled from ``rng``, since the benchmark has literal seeds."""
        self._goals = episode.payload["goals"]
        self._world.reset(episode.payload["seed"])
        return episode.payload["instruction"]

    def apply(self, action: np.ndarray) -> StepResult:
        """One control step of 0.1 s; the benchmark checks success only at its end."""
        self._world.step(action.astype(np.float64))
        solved = self._world.solved(self._goals)
        return StepResult(reward=float(solved), success_within=solved, success_at_end=solved)

    def state(self) -> np.ndarray:
        """``float32[3]``: the finger's tip (m)."""
        return self._world.finger.astype(np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        """The view of this step, upright."""
        return self._rendering.render(self._world.data, ROBOT.cameras[camera.view], camera.height, camera.width)

    def simulator_state(self) -> np.ndarray:
        """MuJoCo's integration state."""
        state = np.empty(mujoco.mj_stateSize(self._world.model, EVERYTHING))
        mujoco.mj_getState(self._world.model, self._world.data, state, EVERYTHING)
        return state

    def privileged(self) -> dict[str, np.ndarray]:
        """Truth for the expert: ``float64[2]``, the centre of each puck and each goal by its colour."""
        return {name: self._world.place(name) for name in (*PUCKS, *GOALS)}

    def metrics(self) -> dict[str, float]:
        """``distance``: how far (m) the puck that is furthest from its goal is."""
        return {"distance": self._world.distance(self._goals)}

    def sibling(self) -> GantryEnv:
        """A further env of the process."""
        return type(self)(self._rendering)

    def close(self) -> None:
        """Free the rendering resources; siblings that continue make them again."""
        self._rendering.close()
