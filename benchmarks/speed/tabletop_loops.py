"""The simulator's side of ``tabletop_steps.py``: our loops and robosuite's own, measured in one process, turn by turn.

Run by the runtime's interpreter, with a line of JSON on standard input: ``packages``, ``start`` (an encoded Start message) and either
``actions`` and ``turns``, answered by what :func:`measure` gives, or ``slots``, answered by the memory that so many take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from loop_tools import answer, cpu, question

CHUNK = 16
VIEWS = ("ego", "robot0_eye_in_hand")
SIZE = 128
#: Rows a turn without pictures and with robosuite's pictures, which take about 20 times as long.
ROWS = 14 * CHUNK
DRAWN_ROWS = 2 * CHUNK
RESETS = 20

#: robosuite's settings without and with cameras.
BLIND = {"use_camera_obs": False, "has_offscreen_renderer": False}
SEEING = {"camera_names": list(VIEWS), "camera_heights": SIZE, "camera_widths": SIZE}


def robosuite_settings() -> dict[str, Any]:
    """What robosuite's envs are made with here: our robot, controllers and control frequency."""
    from robosuite.controllers import load_composite_controller_config

    return {
        "robots": "Panda",
        "controller_configs": load_composite_controller_config(controller="BASIC", robot="Panda"),
        "initialization_noise": None,
        "has_renderer": False,
        "control_freq": 20,
        "ignore_done": True,
        "hard_reset": False,
        "renderer": "mujoco",
    }


def robosuite_scene(**settings: Any) -> Any:
    """The tabletop scene as robosuite runs a scene.

    It has what ours does without: robosuite's observables of the robot, its controllers' own code, its visual meshes, materials and
    lamps.
    """
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv

    from vlarig.envs.tabletop.scene import TabletopScene, quiet_robosuite

    class RobosuiteScene(TabletopScene):
        """Our scene with robosuite's own methods put back."""

        _pre_action = ManipulationEnv._pre_action
        _setup_observables = ManipulationEnv._setup_observables
        edit_model_xml = ManipulationEnv.edit_model_xml

        def __init__(self) -> None:
            self._poses = {}
            ManipulationEnv.__init__(self, **robosuite_settings(), **settings)

    with quiet_robosuite():
        return RobosuiteScene()


def robosuite_stack() -> Any:
    """robosuite's own task with the fewest objects, two cubes; it has observables of them and a reward."""
    import robosuite

    from vlarig.envs.tabletop.scene import quiet_robosuite

    with quiet_robosuite():
        return robosuite.make("Stack", **robosuite_settings(), **BLIND)


class Loops:
    """Every loop that is compared, at the same start and with the same actions.

    Attributes:
        same_state: Whether our loop and robosuite's without cameras have always been in the same state after the same rows.
    """

    def __init__(self, start: Any, actions: np.ndarray) -> None:
        from vlarig.envs.api import Needs
        from vlarig.envs.tabletop.env import TabletopEnv

        self.episode, self.actions = start.episode, actions
        self.blind, self.seeing = Needs(images=False), Needs(images=True)
        self.env = TabletopEnv()
        self.plain, self.drawn, self.stack = robosuite_scene(**BLIND), robosuite_scene(**SEEING), robosuite_stack()
        self.same_state = True

    def ours(self, needs: Any, rows: int, chunk: int = CHUNK) -> float:
        """CPU milliseconds a row of our env when the policy is asked once in ``chunk`` rows."""
        self.env.open(self.episode, needs)
        return cpu(lambda: [self.env.step_chunk(self.actions[row : row + chunk]) for row in range(0, rows, chunk)], rows)

    def robosuite(self, scene: Any, rows: int) -> float:
        """CPU milliseconds a row of the tabletop scene in robosuite's own loop."""
        self.env.open(self.episode, self.blind)
        for name in (f"{kind}_{number}" for kind in ("tray", "zone") for number in range(2)):
            scene.raw_model.body(name).pos[:] = self.env._model.body(name).pos
        scene.place({body: self.env._pose(body).copy() for names in scene.bodies.values() for body in names})
        return cpu(lambda: [scene.step(action) for action in self.actions[:rows].astype(np.float64)], rows)

    def beside_robosuite(self) -> float:
        """robosuite's loop without cameras; also compares the state that it reaches with ours."""
        cost = self.robosuite(self.plain, ROWS)
        self.ours(self.blind, ROWS)
        self.same_state &= np.array_equal(self.plain.raw_data.qpos, self.env._data.qpos)
        self.same_state &= np.array_equal(self.plain.raw_data.qvel, self.env._data.qvel)
        return cost

    def robosuite_drawing(self) -> float:
        """robosuite's loop with two views after every row."""
        # robosuite makes its graphics context the current one when it is made, and trusts that nobody else draws.
        self.drawn.sim._render_context_offscreen.gl_ctx.make_current()
        return self.robosuite(self.drawn, DRAWN_ROWS)

    def stacking(self) -> float:
        """CPU milliseconds a row of robosuite's ``Stack`` without cameras."""
        from vlarig.envs.tabletop.scene import quiet_robosuite

        with quiet_robosuite():
            self.stack.reset()
        return cpu(lambda: [self.stack.step(action) for action in self.actions.astype(np.float64)], ROWS)

    def view(self, number: int) -> float:
        """CPU milliseconds of one of our views."""
        camera = self.episode.protocol.cameras[number]
        return cpu(lambda: [self.env.render_view(camera) for _ in range(CHUNK)], CHUNK)

    def robosuite_view(self, name: str) -> float:
        """CPU milliseconds of the same view as robosuite draws it."""
        self.drawn.sim._render_context_offscreen.gl_ctx.make_current()
        return cpu(lambda: [self.drawn.sim.render(SIZE, SIZE, camera_name=name) for _ in range(4)], 4)

    def reset(self) -> float:
        """CPU milliseconds of our reset without pictures."""
        return cpu(lambda: [self.env.open(self.episode, self.blind) for _ in range(RESETS)], RESETS)


def measure(start: Any, actions: np.ndarray, turns: int) -> dict[str, Any]:
    """CPU milliseconds by name, ``turns`` of each, and whether ours and robosuite's loop reach the same state."""
    loops = Loops(start, actions)
    measured: dict[str, Callable[[], float]] = {
        "ours": lambda: loops.ours(loops.blind, ROWS),
        "ours, chunk": lambda: loops.ours(loops.seeing, ROWS),
        "ours, row": lambda: loops.ours(loops.seeing, ROWS, chunk=1),
        "robosuite": loops.beside_robosuite,
        "robosuite, row": loops.robosuite_drawing,
        "stack": loops.stacking,
        "reset": loops.reset,
        "ego": lambda: loops.view(0),
        "wrist": lambda: loops.view(1),
        "robosuite ego": lambda: loops.robosuite_view(VIEWS[0]),
        "robosuite wrist": lambda: loops.robosuite_view(VIEWS[1]),
    }
    for work in measured.values():
        work()  # compiles what is compiled at its first use
    costs = {name: [] for name in measured}
    for _ in range(turns):
        for name, work in measured.items():
            costs[name].append(work())
    return {"costs": costs, "same_state": bool(loops.same_state)}


def memory(start: Any, slots: int) -> float:
    """MB that the process holds when ``slots`` envs with one renderer have shown their first picture (Linux's ``VmRSS``)."""
    from vlarig.envs.tabletop.env import TabletopEnv

    envs = [TabletopEnv()]
    envs += [envs[0].sibling() for _ in range(slots - 1)]
    for env in envs:
        env.open(start.episode, start.needs)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Answer the question on standard input."""
    told, start = question()
    if "slots" in told:
        answer(memory(start, told["slots"]))
    else:
        answer(measure(start, np.array(told["actions"], dtype=np.float32), told["turns"]))


if __name__ == "__main__":
    main()
