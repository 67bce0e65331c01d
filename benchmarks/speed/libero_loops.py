"""The simulator's side of ``libero_steps.py``: our loops and upstream's own, measured in one process, turn by turn.

Run by the runtime's interpreter, with a line of JSON on standard input: ``packages``, ``start`` (an encoded Start message) and either
``actions`` and ``turns``, answered by what :func:`measure` gives, or ``slots`` or ``upstream``, answered by the memory they take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from loop_tools import answer, cpu, proportional_megabytes, question

CHUNK = 16
#: Rows of the loops that draw at every row, which take about 20 times as long.
DRAWN_ROWS = 2 * CHUNK
SIZE = 256
WAIT_ACTION = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def upstream_env(episode: Any, cameras: bool) -> Any:
    """Upstream's env as the evaluators make it; without ``cameras``, what it offers for that."""
    from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

    from vlarig.envs.libero.upstream import assets_folder

    bddl = str(assets_folder() / "bddl_files" / episode.suite / f"{episode.task}.bddl")
    if cameras:
        return OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=SIZE, camera_widths=SIZE)
    return ControlEnv(bddl_file_name=bddl, use_camera_obs=False, has_offscreen_renderer=False)


class Loops:
    """Every loop that is compared, over the same episode and actions.

    Attributes:
        same_state: Whether our loop and upstream's have always been in the same state after the same episode.
    """

    def __init__(self, episode: Any, actions: np.ndarray) -> None:
        from vlarig.envs.api import Camera, Needs
        from vlarig.envs.libero.env import LiberoEnv

        self.actions = actions
        self.blind, self.seeing = Needs(images=False), Needs(images=True)
        drawn = tuple(Camera(camera.view, SIZE, SIZE, mirror=True) for camera in episode.protocol.cameras)
        own = replace(episode.protocol, stop_on_success=False, step_limit=10_000)
        self.own = replace(episode, protocol=own)
        self.chunked = replace(episode, protocol=replace(own, cameras=drawn, execute=CHUNK))
        self.env = LiberoEnv()
        self.env.open(self.own, self.blind)
        self.states = self.env.scene.init_states
        self.drawing, self.plain = upstream_env(episode, cameras=True), upstream_env(episode, cameras=False)
        self.same_state = True

    def ours(self, episode: Any, needs: Any, rows: int = 0, chunk: int = CHUNK) -> float:
        """CPU milliseconds a row when the policy is asked once in ``chunk`` rows, without the reset."""
        self.env.open(episode, needs)
        actions = self.actions[: rows or None]
        return cpu(lambda: self._play(actions, chunk), len(actions))

    def our_episode(self) -> float:
        """CPU milliseconds of the episode with its reset, sixteen rows a chunk."""

        def episode() -> None:
            self.env.open(self.chunked, self.seeing)
            self._play(self.actions, CHUNK)

        return cpu(episode)

    def upstream(self, env: Any, rows: int = 0) -> float:
        """CPU milliseconds a row of upstream's loop, without the reset."""
        self._start(env)
        actions = self.actions[: rows or None].tolist()
        return cpu(lambda: [env.step(action) for action in actions], len(actions))

    def upstream_episode(self) -> float:
        """CPU milliseconds of the episode with its reset in upstream's loop; also compares the state it reaches with ours."""

        def episode() -> None:
            self._start(self.drawing)
            for action in self.actions.tolist():
                self.drawing.step(action)

        cost = cpu(episode)
        self.our_episode()
        theirs, ours = self.drawing.sim.data, self.env._slot.data
        self.same_state &= np.array_equal(theirs.qpos, ours.qpos) and np.array_equal(theirs.qvel, ours.qvel)
        return cost

    def our_reset(self) -> float:
        """CPU milliseconds of our reset, with its ten steps of waiting and two pictures."""
        return cpu(lambda: [self.env.open(self.chunked, self.seeing) for _ in range(4)], 4)

    def upstream_reset(self) -> float:
        """CPU milliseconds of upstream's."""
        return cpu(lambda: self._start(self.drawing))

    def view(self, number: int) -> float:
        """CPU milliseconds of one of our views."""
        camera = self.chunked.protocol.cameras[number]
        return cpu(lambda: [self.env.render_view(camera) for _ in range(8)], 8)

    def substeps(self) -> float:
        """CPU milliseconds of 25 bare physics steps of MuJoCo's: what a row costs at least."""
        import mujoco

        model, data = self.env.scene.model, mujoco.MjData(self.env.scene.model)
        data.qpos[:], data.qvel[:] = self.env._slot.data.qpos, self.env._slot.data.qvel
        return cpu(lambda: mujoco.mj_step(model, data, 25 * CHUNK), CHUNK)

    def _play(self, actions: np.ndarray, chunk: int) -> None:
        for row in range(0, len(actions), chunk):
            self.env.step_chunk(actions[row : row + chunk])

    def _start(self, env: Any) -> None:
        """Upstream's reset as the evaluators do it, seeded with the episode's seed."""
        if env is self.drawing and env.sim._render_context_offscreen is not None:
            # It makes its graphics context the current one when it is made, and trusts that nobody else draws.
            env.sim._render_context_offscreen.gl_ctx.make_current()
        env.seed(self.own.seed)
        env.reset()
        env.set_init_state(self.states[self.own.start])
        for _ in range(self.own.protocol.wait_steps):
            env.step(WAIT_ACTION)


def measure(episode: Any, actions: np.ndarray, turns: int) -> dict[str, Any]:
    """CPU milliseconds by name, ``turns`` of each, and whether ours and upstream's loop reach the same state."""
    loops = Loops(episode, actions)
    execute = episode.protocol.execute
    measured: dict[str, Callable[[], float]] = {
        "ours, blind": lambda: loops.ours(loops.own, loops.blind),
        "upstream, blind": lambda: loops.upstream(loops.plain),
        "substeps": loops.substeps,
        "ours, chunk": lambda: loops.ours(loops.chunked, loops.seeing),
        "ours, protocol": lambda: loops.ours(loops.own, loops.seeing, chunk=execute),
        "ours, row": lambda: loops.ours(loops.chunked, loops.seeing, DRAWN_ROWS, chunk=1),
        "upstream, row": lambda: loops.upstream(loops.drawing, DRAWN_ROWS),
        "our episode": loops.our_episode,
        "upstream's episode": loops.upstream_episode,
        "our reset": loops.our_reset,
        "upstream's reset": loops.upstream_reset,
        "ego": lambda: loops.view(0),
        "wrist": lambda: loops.view(1),
    }
    for name in ("ours, blind", "upstream, blind", "ours, row", "upstream, row"):
        measured[name]()  # compiles what is compiled at its first use
    costs = {name: [] for name in measured}
    for _ in range(turns):
        for name, work in measured.items():
            costs[name].append(work())
    return {"costs": costs, "same_state": bool(loops.same_state)}


def memory(episodes: list[Any]) -> float:
    """MB of the process when each episode has a slot of its own, has been reset, stepped and shown (proportional set size)."""
    from vlarig.envs.api import Needs
    from vlarig.envs.libero.env import LiberoEnv

    envs = [LiberoEnv()]
    envs += [envs[0].sibling() for _ in episodes[1:]]
    for env, episode in zip(envs, episodes, strict=True):
        env.open(episode, Needs())
        env.step_chunk(np.ones((episode.protocol.execute, 7)))
    return proportional_megabytes()


def upstream_memory(episode: Any) -> float:
    """MB of a process with one env of upstream's that has been reset and stepped; MuJoCo's cache of files is off, as in ours."""
    from vlarig.envs.libero.init_states import read_init_states
    from vlarig.envs.libero.upstream import assets_folder, import_upstream

    import_upstream(assets_folder())
    env = upstream_env(episode, cameras=True)
    env.reset()
    env.set_init_state(read_init_states(assets_folder() / "init_files" / episode.suite / f"{episode.task}.pruned_init")[0])
    env.step(WAIT_ACTION)
    return proportional_megabytes()


def main() -> None:
    """Answer the question on standard input."""
    told, start = question()
    episode = start.episode
    if "upstream" in told:
        answer(upstream_memory(episode))
    elif "tasks" in told:
        answer(memory([replace(episode, task=task, start=start) for start, task in enumerate(told["tasks"])]))
    else:
        answer(measure(episode, np.array(told["actions"], dtype=np.float32), told["turns"]))


if __name__ == "__main__":
    main()
