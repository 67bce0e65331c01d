"""The simulator's side of ``simpler_steps.py``: our loops and mani-skill's own, measured in one process, turn by turn.

Run by the runtime's interpreter, with a line of JSON on standard input: ``packages``, ``start`` (an encoded Start message) and either
``actions`` and ``turns``, answered by what :func:`measure` gives, ``payloads`` or ``upstream``, answered by the memory that their slots
take, or nothing more, answered by the seconds of the first start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from loop_tools import answer, cpu, proportional_megabytes, question

CHUNK = 16
#: What mani-skill's own env makes of a row; so both loops can be given the same actions.
AS_UPSTREAM = {"rotation": "moving_axes", "predicates": "maniskill3"}


def upstream_env(scene: str) -> Any:
    """mani-skill's env as its evaluator makes it, in a process that has made none before."""
    import gymnasium

    from vlarig.envs.simpler.upstream import import_upstream

    import_upstream()
    from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv

    BaseDigitalTwinEnv._objects_to_remove_from_greenscreen = []
    BaseDigitalTwinEnv._rgb_overlay_images = {}
    return gymnasium.make(scene, obs_mode="rgb+segmentation", num_envs=1, sim_backend="cpu", render_backend="cpu")


class Loops:
    """Every loop that is compared, over the same episode and actions.

    Attributes:
        same_state: Whether our loop and upstream's have always been in the same state after the same episode.
    """

    def __init__(self, episode: Any, actions: np.ndarray) -> None:
        from vlarig.envs.api import Camera, Needs
        from vlarig.envs.simpler.env import BridgeEnv

        self.actions = actions
        self.upstream_actions = actions * np.float32([1, 1, 1, 1, 1, 1, 2]) - np.float32([0, 0, 0, 0, 0, 0, 1])
        self.blind, self.seeing = Needs(images=False), Needs(images=True)
        own = replace(
            episode.protocol,
            step_limit=len(actions),
            task_limits={},
            stop_on_success=False,
            gripper="as_given",
            options=AS_UPSTREAM,
        )
        self.own = replace(episode, protocol=own)
        self.chunked = replace(episode, protocol=replace(own, cameras=(Camera("ego", 480, 640),), execute=CHUNK))
        self.env = BridgeEnv()
        self.drawing = upstream_env(episode.payload["scene"])
        self.same_state = True

    def our_episode(self, episode: Any, needs: Any) -> float:
        """CPU milliseconds of the episode with its reset."""
        chunk = episode.protocol.execute

        def play() -> None:
            self.env.open(episode, needs)
            for row in range(0, len(self.actions), chunk):
                self.env.step_chunk(self.actions[row : row + chunk])

        return cpu(play)

    def upstream_episode(self) -> float:
        """CPU milliseconds of the episode with its reset in upstream's loop, a picture at every step."""

        def play() -> None:
            self._start({})
            for action in self.upstream_actions:
                self.drawing.step(action)

        return cpu(play)

    def compare(self) -> None:
        """See that both loops end in the same state where upstream's env begins anew, as ours does."""
        self._start({"reconfigure": True})
        for action in self.upstream_actions:
            self.drawing.step(action)
        self.our_episode(self.chunked, self.blind)
        tasks = (self.env.scene.upstream, self.drawing.unwrapped)
        ours, theirs = (
            [*(actor.pose.raw_pose for actor in task.objs.values()), task.agent.robot.get_qpos(), task.agent.robot.get_qvel()]
            for task in tasks
        )
        self.same_state = all(np.array_equal(mine, yours) for mine, yours in zip(ours, theirs, strict=True))

    def our_reset(self) -> float:
        """CPU milliseconds of our reset with its picture."""
        return cpu(lambda: self.env.open(self.chunked, self.seeing))

    def upstream_reset(self) -> float:
        """CPU milliseconds of upstream's."""
        return cpu(lambda: self._start({}))

    def picture(self) -> float:
        """CPU milliseconds of one of our pictures."""
        return cpu(lambda: [self.env.render_view(self.chunked.protocol.cameras[0]) for _ in range(4)], 4)

    def substeps(self) -> float:
        """CPU milliseconds of a row's bare physics steps, at the end of the episode."""
        self.our_episode(self.chunked, self.blind)
        scene = self.env.scene
        rows = self.upstream_actions[:8]

        def run() -> float:
            scene.upstream.agent.set_action(_batch(rows[0]))
            return cpu(lambda: scene._run(scene._substeps))

        return sum(run() for _ in rows) / len(rows)

    def _start(self, options: dict[str, Any]) -> None:
        import torch

        self.drawing.reset(seed=0, options={"episode_id": torch.tensor([self.own.start]), **options})


def _batch(action: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(action)[None]


def measure(episode: Any, actions: np.ndarray, turns: int) -> dict[str, Any]:
    """CPU milliseconds by name, ``turns`` of each, and whether ours and upstream's loop reach the same state."""
    loops = Loops(episode, actions)
    loops.compare()
    measured: dict[str, Callable[[], float]] = {
        "our episode": lambda: loops.our_episode(loops.chunked, loops.seeing),
        "upstream's episode": loops.upstream_episode,
        "ours, protocol": lambda: loops.our_episode(loops.own, loops.seeing),
        "ours, blind": lambda: loops.our_episode(loops.chunked, loops.blind),
        "our reset": loops.our_reset,
        "upstream's reset": loops.upstream_reset,
        "picture": loops.picture,
        "substeps": loops.substeps,
    }
    costs: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(turns):
        for name, work in measured.items():
            costs[name].append(work())
    return {"costs": costs, "same_state": bool(loops.same_state)}


def memory(episode: Any, payloads: list[dict[str, Any]]) -> float:
    """MB of the process when each payload has a slot of its own, has been reset, stepped and shown."""
    from vlarig.envs.api import Needs
    from vlarig.envs.simpler.env import BridgeEnv

    envs = [BridgeEnv() for _ in payloads]
    for env, payload in zip(envs, payloads, strict=True):
        env.open(replace(episode, payload=payload), Needs())
        env.step_chunk(np.zeros((CHUNK, 7)))
    return proportional_megabytes()


def upstream_memory(episode: Any) -> float:
    """MB of a process with one env of upstream's that has been reset and stepped."""
    env = upstream_env(episode.payload["scene"])
    env.reset()
    env.step(np.zeros(7, dtype=np.float32))
    return proportional_megabytes()


def start_up(episode: Any) -> dict[str, float]:
    """Wall seconds of this process until mani-skill is imported, and from there to the first observation."""
    from vlarig.envs.api import Needs
    from vlarig.envs.simpler.env import BridgeEnv
    from vlarig.envs.simpler.upstream import import_upstream

    began = time.perf_counter()
    import_upstream()
    imported = time.perf_counter()
    env = BridgeEnv()
    env.open(episode, Needs())
    shown = time.perf_counter()
    env.close()
    env.open(episode, Needs())
    return {"import": imported - began, "first": shown - imported, "again": time.perf_counter() - shown}


def main() -> None:
    """Answer the question on standard input."""
    told, start = question()
    if "upstream" in told:
        answer(upstream_memory(start.episode))
    elif "payloads" in told:
        answer(memory(start.episode, told["payloads"]))
    elif "actions" in told:
        answer(measure(start.episode, np.array(told["actions"], dtype=np.float32), told["turns"]))
    else:
        answer(start_up(start.episode))


if __name__ == "__main__":
    main()
