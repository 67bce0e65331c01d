"""The evaluation loop of RoboCasa-GR1's public evaluators: what parity and measurements compare the adapter with.

It is that of starVLA/starVLA@0ed0aad examples/simBenchmarks/Robocasa_tabletop/eval_files/simulation_env.py, and of GR00T's: upstream's
Gymnasium env of the task, rendered at every step. It is reset by the episode's seed here, which neither does. Rendering takes more than
half of its time, so images that are not read are black.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable

import cv2
import numpy as np

from ..api import Episode
from ..mujoco_shared import ROBOSUITE_LOG, bare_steps, integration_state
from ..parity import Upstream, Verdict
from ..robosuite_loop import blank, render_here
from ..upstream import quiet
from .env import SUBSTEPS, RobocasaEnv
from .robot import STARVLA_ORDER, split
from .upstream import make_task, reset_task

VIEW = "video.ego_view_bg_crop_pad_res256_freq20"


class RobocasaEvaluator(Upstream[RobocasaEnv]):
    """The evaluators' loop over one task."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        self._seeing = seeing
        self.env: Any = make_task(episode.task, seeing=seeing)

    def reset(self, episode: Episode) -> None:
        """Upstream's, by the seed."""
        render_here(self.env.env.sim)
        self._seen = reset_task(self.env, episode.payload["seed"])
        self._protocol, self._step = episode.protocol, 0

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        parts = split(action, STARVLA_ORDER)
        render_here(self.env.env.sim)
        with quiet(ROBOSUITE_LOG), nullcontext() if look else blank():
            self._seen, reward, _, _, info = self.env.step({f"action.{part}": numbers for part, numbers in parts.items()})
        self._step += 1
        every = self._protocol.n_action_steps if self._protocol.options["success"] == "chunk_end" else 1
        return Verdict(float(reward), bool(info["success"]) and self._step % every == 0)

    def state(self) -> list[np.ndarray]:
        return [integration_state(self.env.env.sim.model._model, self.env.env.sim.data._data)]

    def state_of(self, env: RobocasaEnv) -> list[np.ndarray]:
        return [integration_state(env.model, env.data)]

    def observation(self) -> dict[str, np.ndarray]:
        """The image as the evaluators resize it, and the joints."""
        state = np.concatenate([self._seen[f"state.{part}"] for part in STARVLA_ORDER]).astype(np.float32)
        (camera,) = self._protocol.cameras
        image = self._seen[VIEW]
        if camera.resize:
            image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        return {"state": state, **({"ego": image} if self._seeing else {})}

    def bare_physics(self, env: RobocasaEnv) -> Callable[[], Any]:
        return bare_steps(env.model, env.data, SUBSTEPS)

    def close(self) -> None:
        self.env.close()
