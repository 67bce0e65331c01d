"""RoboTwin's evaluation loop: what parity and measurements compare the adapter with.

It is that of RoboTwin-Platform/RoboTwin@13c3c47 script/eval_policy.py, ``eval_policy``, after the expert's check: ``setup_demo`` with
the seed, then ``get_obs`` and ``take_action`` in turn, with the four cameras rendered each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..api import Episode
from ..parity import Upstream, Verdict
from ..sapien_reflections import no_reflections
from ..upstream import quiet
from .env import RobotwinEnv, RobotwinPoseEnv, everything
from .robot import ROBOTWIN_ALOHA
from .upstream import SHADER, WITHOUT_CUDA, make_task, set_up


class RobotwinEvaluator(Upstream[RobotwinEnv]):
    """The evaluator's loop over one task. It always renders, so that not seeing changes nothing."""

    source = RobotwinEnv.source
    action_type = RobotwinEnv.action_type

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        self.task: Any = make_task(self.source, episode.task, (WITHOUT_CUDA, SHADER))

    def reset(self, episode: Episode) -> None:
        """The evaluator's, on a task that has played none before; without the table of reflections, which each scene computes anew."""
        self.task = make_task(self.source, episode.task, (WITHOUT_CUDA, SHADER))
        self.begin_again(episode)
        assert self.task.scene.render_system.cubemap is None, f"{episode.key}: images show reflections of an environment map"
        cameras, table = self.task.cameras, no_reflections()
        for camera in (*cameras.static_camera_list, cameras.left_camera, cameras.right_camera):
            camera.set_texture("BRDFLUT", table)

    def begin_again(self, episode: Episode) -> None:
        """The evaluator's own, which keeps the task and makes the scene anew."""
        self._seen: Any = None
        set_up(self.task, episode.task, episode.payload["config"], episode.payload["seed"])

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        """One action, after which the evaluator's policies look."""
        with quiet():
            self.task.take_action(action, self.action_type)
        self._seen = self.task.get_obs() if look else None
        success = bool(self.task.eval_success)
        return Verdict(float(success), success)

    def state(self) -> list[np.ndarray]:
        return everything(self.task)

    def state_of(self, env: RobotwinEnv) -> list[np.ndarray]:
        return everything(env.task)

    def observation(self) -> dict[str, np.ndarray]:
        """The cameras' images as they are rendered, and the joints."""
        seen = self._seen or self.task.get_obs()
        images = {view: seen["observation"][name]["rgb"] for view, name in ROBOTWIN_ALOHA.cameras.items()}
        return {**images, "state": self.seen_state(seen)}

    def seen_state(self, seen: Any) -> np.ndarray:
        """The state in what upstream's policies see."""
        return seen["joint_action"]["vector"].astype(np.float32)


class RobotwinPoseEvaluator(RobotwinEvaluator):
    """The same with poses of the grippers."""

    action_type = RobotwinPoseEnv.action_type

    def seen_state(self, seen: Any) -> np.ndarray:
        """The grippers' poses and openings."""
        hands = seen["endpose"]
        return np.array(
            [number for side in ("left", "right") for number in (*hands[f"{side}_endpose"], hands[f"{side}_gripper"])],
            np.float32,
        )
