"""The simulator's side of ``steps.py`` and ``harness_overhead.py``: our loops and upstream's own, in one process without the harness.

Run by the runtime's interpreter with the name of a function of :data:`ANSWERS`. It reads a line of JSON from standard input, with the
files of the packages that the driver shares, and answers with a line of JSON on standard output.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

#: Bare physics steps of a control step: 20 Hz at 2 ms in robosuite and LIBERO.
SUBSTEPS = 25
#: Pictures and bare physics steps of a measurement.
PICTURES = 8


class Robosuite:
    """The tabletop scene as robosuite runs a scene, placed as our env is.

    It has what ours omits: robosuite's observables of the robot, its controllers' own code, its visual meshes, materials and
    lamps. It has no observables of objects and no reward, which robosuite's own tasks have.
    """

    def __init__(self, episode: Any, seeing: bool) -> None:
        from robosuite.controllers import load_composite_controller_config
        from robosuite.environments.manipulation.manipulation_env import ManipulationEnv

        from vlarig.envs.tabletop.scene import LOG, TabletopScene
        from vlarig.envs.upstream import quiet

        camera = episode.protocol.cameras[0]
        cameras = {
            "camera_names": ["ego", "robot0_eye_in_hand"],
            "camera_heights": camera.height,
            "camera_widths": camera.width,
        }
        settings = {
            "robots": "Panda",
            "controller_configs": load_composite_controller_config(controller="BASIC", robot="Panda"),
            "initialization_noise": None,
            "has_renderer": False,
            "control_freq": 20,
            "ignore_done": True,
            "hard_reset": False,
            "renderer": "mujoco",
            **(cameras if seeing else {"use_camera_obs": False, "has_offscreen_renderer": False}),
        }

        class Scene(TabletopScene):
            """Our scene with robosuite's own methods put back."""

            _pre_action = ManipulationEnv._pre_action
            _setup_observables = ManipulationEnv._setup_observables
            edit_model_xml = ManipulationEnv.edit_model_xml

            def __init__(self) -> None:
                self._poses = {}
                ManipulationEnv.__init__(self, **settings)

        with quiet(LOG):
            self.scene = Scene()
        self.seeing, self.poses = seeing, {}

    def follow(self, env: Any) -> None:
        """Put everything where our env, at the start of the episode, has it."""
        for name in (f"{kind}_{number}" for kind in ("tray", "zone") for number in range(2)):
            self.scene.raw_model.body(name).pos[:] = env._model.body(name).pos
        self.poses = {body: env._pose(body).copy() for names in self.scene.bodies.values() for body in names}

    def begin(self, rebuilt: bool = False) -> None:
        """Reset the robot and the objects."""
        if (
            self.seeing
        ):  # robosuite makes its graphics context the current one when it is made, and assumes that nothing else draws
            self.scene.sim._render_context_offscreen.gl_ctx.make_current()
        self.scene.place({body: pose.copy() for body, pose in self.poses.items()})

    def step(self, action: np.ndarray) -> None:
        """One control step."""
        self.scene.step(action.astype(np.float64))

    def states(self, env: Any) -> list[tuple[Any, Any]]:
        """The states of our env and of this one, by pairs."""
        return [(env._data.qpos, self.scene.raw_data.qpos), (env._data.qvel, self.scene.raw_data.qvel)]

    def bare(self, env: Any) -> Callable[[], Any]:
        """A control step's bare physics, from our env's state."""
        return bare_mujoco(env._model, env._data)


class Libero:
    """Upstream's env as the evaluators make it; without pictures, its class for that. The task is loaded again at every reset."""

    def __init__(self, episode: Any, seeing: bool) -> None:
        from vlarig.envs.libero.init_states import read_init_states
        from vlarig.envs.libero.upstream import assets_folder, import_upstream

        assets = assets_folder()
        import_upstream()
        from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

        bddl, camera = str(assets / "bddl_files" / episode.suite / f"{episode.task}.bddl"), episode.protocol.cameras[0]
        if seeing:
            self.env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=camera.height, camera_widths=camera.width)
        else:
            self.env = ControlEnv(bddl_file_name=bddl, use_camera_obs=False, has_offscreen_renderer=False)
        self.seeing, self.episode = seeing, episode
        states = read_init_states(assets / "init_files" / episode.suite / f"{episode.task}.pruned_init")
        self.initial_state = states[episode.initial_state]

    def follow(self, env: Any) -> None:
        """Nothing: the initial state is a file's."""

    def begin(self, rebuilt: bool = False) -> None:
        """The evaluators' reset, seeded with the episode's seed."""
        if self.seeing and self.env.sim._render_context_offscreen is not None:
            self.env.sim._render_context_offscreen.gl_ctx.make_current()
        self.env.seed(self.episode.seed)
        self.env.reset()
        self.env.set_init_state(self.initial_state)
        for _ in range(self.episode.protocol.wait_steps):
            self.env.step(list(self.episode.protocol.wait_action))

    def step(self, action: np.ndarray) -> None:
        """One control step."""
        self.env.step(action.tolist())

    def states(self, env: Any) -> list[tuple[Any, Any]]:
        """The states of our env and of this one, by pairs."""
        return [(env._env_state.data.qpos, self.env.sim.data.qpos), (env._env_state.data.qvel, self.env.sim.data.qvel)]

    def bare(self, env: Any) -> Callable[[], Any]:
        """A control step's bare physics, from our env's state."""
        return bare_mujoco(env.scene.model, env._env_state.data)


class ManiSkill:
    """mani-skill's env as SimplerEnv's evaluator makes it, a picture at every step; a process can hold one."""

    def __init__(self, episode: Any, seeing: bool) -> None:
        import gymnasium

        from vlarig.envs.simpler.upstream import import_upstream

        import_upstream()
        from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv

        BaseDigitalTwinEnv._objects_to_remove_from_greenscreen = []
        BaseDigitalTwinEnv._rgb_overlay_images = {}
        how = {"obs_mode": "rgb+segmentation", "num_envs": 1, "sim_backend": "cpu", "render_backend": "cpu"}
        self.env, self.start = gymnasium.make(episode.payload["scene"], **how), episode.initial_state

    def follow(self, env: Any) -> None:
        """Nothing: the start is a number of upstream's."""

    def begin(self, rebuilt: bool = False) -> None:
        """The evaluator's plain reset; with ``rebuilt`` it builds the scene again, as ours does in every episode."""
        import torch

        options = {"episode_id": torch.tensor([self.start]), **({"reconfigure": True} if rebuilt else {})}
        self.env.reset(seed=0, options=options)

    def step(self, action: np.ndarray) -> None:
        """One control step; upstream's gripper goes from -1 to 1, ours from 0 to 1."""
        self.env.step(action * np.float32([1, 1, 1, 1, 1, 1, 2]) - np.float32([0, 0, 0, 0, 0, 0, 1]))

    def states(self, env: Any) -> list[tuple[Any, Any]]:
        """The states of our env and of this one, by pairs."""
        return list(zip(*(_simpler_state(task) for task in (env.scene.upstream, self.env.unwrapped)), strict=True))

    def bare(self, env: Any) -> Callable[[], Any]:
        """A control step's bare physics, in our env."""
        return partial(env.scene._run, env.scene._substeps)


def _simpler_state(task: Any) -> list[Any]:
    robot = task.agent.robot
    return [*(actor.pose.raw_pose for actor in task.objs.values()), robot.get_qpos(), robot.get_qvel()]


UPSTREAM: dict[str, Callable[[Any, bool], Any]] = {"tabletop": Robosuite, "libero": Libero, "simpler": ManiSkill}


def bare_mujoco(model: Any, data: Any) -> Callable[[], Any]:
    """The physics steps of one control step, on a copy of the positions and velocities."""
    import mujoco

    copy = mujoco.MjData(model)
    copy.qpos[:], copy.qvel[:] = data.qpos, data.qvel
    return partial(mujoco.mj_step, model, copy, SUBSTEPS)


def cpu(work: Callable[[], Any], count: int = 1) -> float:
    """CPU milliseconds of this process for one of ``count`` calls."""
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count * 1e3


def play(env: Any, start: Any, actions: np.ndarray) -> None:
    """Our loop over an episode that has begun."""
    n_action_steps = start.episode.protocol.n_action_steps
    for step in range(0, len(actions), n_action_steps):
        env.step_chunk(actions[step : step + n_action_steps])


def measure(request: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> dict[str, Any]:
    """CPU milliseconds of a reset and of a step by loop, those of a picture and of bare physics; and whether states are equal.

    The first of ``starts`` is without pictures, the second with them. States are those of the loops with pictures: LIBERO's env
    without cameras ends in another state than its env with them.
    """
    env, actions = make(), np.array(request["actions"], dtype=np.float32)
    theirs, same = {}, False
    for name, seeing in request["upstreams"].items():
        ours = starts[1 if seeing else 0]
        env.open(ours.episode, ours.needs)
        theirs[name] = UPSTREAM[request["runtime"]](ours.episode, seeing)
        theirs[name].follow(env)
        play(env, ours, actions)
        theirs[name].begin(rebuilt=True)
        for action in actions:
            theirs[name].step(action)
        if seeing:
            same = all(np.array_equal(mine, yours) for mine, yours in theirs[name].states(env))
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*request["loops"], *theirs)}
    parts: dict[str, list[float]] = {}
    for _ in range(request["turns"]):
        for name, start in zip(request["loops"], starts, strict=True):
            reset = cpu(partial(env.open, start.episode, start.needs))
            costs[name].append((reset, cpu(partial(play, env, start, actions)) / len(actions)))
        for camera in starts[1].episode.protocol.cameras:
            drawn = cpu(partial(env.render_view, camera.as_drawn), PICTURES)
            parts.setdefault(f"our picture, {camera.view}", []).append(drawn)
        parts.setdefault("bare physics of a step", []).append(cpu(theirs["upstream"].bare(env), PICTURES))
        for name, each in theirs.items():
            costs[name].append(
                (cpu(each.begin), cpu(lambda each=each: [each.step(action) for action in actions]) / len(actions))
            )
    return {"costs": costs, "parts": parts, "same": same}


def memory(_: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> float:
    """MB of this process when each initial state's env has begun and stepped."""
    envs = [make()]
    envs += [envs[0].sibling() for _ in starts[1:]]
    for env, start in zip(envs, starts, strict=True):
        env.open(start.episode, start.needs)
        env.step_chunk(np.zeros((start.episode.protocol.n_action_steps, 7), dtype=np.float32))
    return proportional_megabytes()


def upstream_memory(request: dict[str, Any], _: Callable[[], Any], starts: list[Any]) -> float:
    """The same of upstream's env with pictures; MuJoCo's cache of files is off, as in ours."""
    upstream = UPSTREAM[request["runtime"]](starts[0].episode, True)
    upstream.begin()
    upstream.step(np.zeros(7, dtype=np.float32))
    return proportional_megabytes()


def proportional_megabytes() -> float:
    """Memory of this process, its share of what it has in common with others (proportional set size)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def start_up(_: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> list[float]:
    """Wall seconds until the first observation, the simulator's import included; then of the same episode in the scene loaded again."""
    seconds, began = [], time.perf_counter()
    env = make()
    for _ in range(2):
        env.open(starts[0].episode, starts[0].needs)
        seconds.append(time.perf_counter() - began)
        env.close()
        began = time.perf_counter()
    return seconds


def bare(request: dict[str, Any], make: Callable[[], Any], starts: list[Any]) -> float:
    """Steps a second of the episodes, resets included, in ``request["envs"]`` envs that run a chunk in turn.

    Loads, writes ``ready``, waits for a line, plays.
    """
    env, actions = make(), np.array(request["actions"], dtype=np.float32)
    env.open(starts[0].episode, starts[0].needs)
    env.step_chunk(actions)
    playing = [env, *(env.sibling() for _ in range(request["envs"] - 1))]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    steps, began = 0, time.perf_counter()
    waiting, under_way = iter(starts), set()
    while playing:
        for env in list(playing):
            if env not in under_way:
                start = next(waiting, None)
                if start is None:
                    playing.remove(env)
                    continue
                env.open(start.episode, start.needs)
                under_way.add(env)
            result = env.step_chunk(actions)
            steps += len(result.steps)
            if result.over:
                under_way.discard(env)
    return steps / (time.perf_counter() - began)


ANSWERS = {each.__name__: each for each in (measure, memory, upstream_memory, start_up, bare)}


def main() -> None:
    """Answer the question on standard input."""
    request = json.loads(sys.stdin.readline())
    room = ModuleType("vlarig")
    room.__path__ = []
    sys.modules["vlarig"] = room
    spec = importlib.util.spec_from_file_location("vlarig.envs", request["package"])
    sys.modules["vlarig.envs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["vlarig.envs"])
    messages, wire = importlib.import_module("vlarig.envs.messages"), importlib.import_module("vlarig.envs.wire")
    starts = [wire.unpack(base64.b64decode(text), messages.Start) for text in request["starts"]]
    module, _, name = request["adapter"].partition(":")

    def make() -> Any:
        return getattr(importlib.import_module(module), name)()

    answer = ANSWERS[sys.argv[1]](request, make, starts)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # upstream's renderers raise while an interpreter ends


if __name__ == "__main__":
    main()
