"""SimplerEnv's evaluation loop on mani-skill 3: what parity and measurements compare the adapter with.

It is that of simpler-env/SimplerEnv simpler_env/real2sim_eval_maniskill3.py@52a5088: ``gym.make``, a reset to an episode id, then
``step``, with the camera rendered at every step.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, Callable
from unittest.mock import patch

import gymnasium
import numpy as np

from ..api import Episode
from ..parity import Upstream, Verdict
from .env import BridgeEnv
from .upstream import import_upstream

VIEW = "3rd_view_camera"


class ManiSkillEvaluator(Upstream[BridgeEnv]):
    """The evaluator's loop over one task; a process can hold one. It always renders, so that not seeing changes nothing."""

    def __init__(self, episode: Episode, seeing: bool = True) -> None:
        import_upstream()
        from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv

        # What upstream keeps in class attributes, as it is in a process that has made no env before.
        BaseDigitalTwinEnv._objects_to_remove_from_greenscreen = []
        BaseDigitalTwinEnv._rgb_overlay_images = {}
        how = {"obs_mode": "rgb+segmentation", "num_envs": 1, "sim_backend": "cpu", "render_backend": "cpu"}
        self.env: Any = gymnasium.make(episode.payload["scene"], **how)
        self.task: Any = self.env.unwrapped

    def reset(self, episode: Episode) -> None:
        """The evaluator's, with the scene built again, so that nothing of the episode before is left.

        So is the original evaluator's, which makes an env for each episode.
        """
        self._begin(episode, reconfigure=True)

    def begin_again(self, episode: Episode) -> None:
        """The evaluator's, in the scene that there is."""
        self._begin(episode, reconfigure=False)

    def _begin(self, episode: Episode, reconfigure: bool) -> None:
        import torch

        options = {"episode_id": torch.tensor([episode.initial_state]), "reconfigure": reconfigure}
        self._seen, _ = self.env.reset(seed=0, options=options)

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        """One control step; upstream's gripper goes from -1 to 1, ours from 0 to 1."""
        with nullcontext() if look else patch.object(self.task, "get_obs", lambda *_, **__: {}):
            self._seen, _, _, _, info = self.env.step(np.array([*action[:6], 2 * action[6] - 1], np.float32))
        success = bool(info["success"])
        return Verdict(float(success), success, {name: float(value) for name, value in info.items() if "grasp" in name})

    def state(self) -> list[np.ndarray]:
        return everything(self.task)

    def state_of(self, env: BridgeEnv) -> list[np.ndarray]:
        return everything(env.scene.upstream)

    def observation(self) -> dict[str, np.ndarray]:
        """The camera's image as it is rendered."""
        return {"ego": self._seen["sensor_data"][VIEW]["rgb"][0].numpy()}

    def bare_physics(self, env: BridgeEnv) -> Callable[[], Any]:
        return partial(env.scene._run, env.scene._substeps)

    def close(self) -> None:
        self.env.close()


def everything(task: Any) -> list[np.ndarray]:
    """PhysX's whole state of the objects and the robot, and the controller's targets of the hand and the joints."""
    (robot,) = task.agent.robot._objs
    numbers = [robot.pose.p, robot.pose.q, robot.qpos, robot.qvel]
    numbers += [joint.drive_target for joint in robot.active_joints]
    numbers.append(task.agent.controller.controllers["arm"]._target_pose.raw_pose.numpy())
    for actor in task.objs.values():
        (body,) = actor._bodies
        numbers += [body.entity.pose.p, body.entity.pose.q, body.linear_velocity, body.angular_velocity, [body.is_sleeping]]
    return [np.array(each) for each in numbers]
