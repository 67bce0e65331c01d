"""The benchmark as data: tasks, initial states and protocols."""

from __future__ import annotations

from typing import Any

from vlarig.benchmarks.suite import Footprint, Suite, Task
from vlarig.benchmarks.trial import Trial
from vlarig.envs.api import Camera, Protocol

from .robot import ROBOT

#: Task to its first seed, its instruction, and the goal of each puck that has one. Every scene holds both pucks and both goals.
TASKS: dict[str, tuple[int, str, dict[str, str]]] = {
    "red_to_yellow": (1000, "push the red puck onto the yellow goal", {"red": "yellow"}),
    "blue_to_yellow": (2000, "push the blue puck onto the yellow goal", {"blue": "yellow"}),
    "sort": (
        3000,
        "push the red puck onto the yellow goal and the blue puck onto the green goal",
        {"red": "yellow", "blue": "green"},
    ),
}

#: Each task has this many literal seeds; those of training begin at the second number.
INITIAL_STATES, TRAINING = 20, 100_000

CAMERAS = (Camera("ego", 128, 128), Camera("cam_left_wrist", 96, 96))

#: The two evaluators of the benchmark. The expert takes at most 57 steps for one puck and 135 for two.
STANDARD = Protocol(name="standard", version=1, step_limit=120, task_limits={"sort": 240}, cameras=CAMERAS, n_action_steps=8)
#: Here a puck that slides over its goal does not count: it has to stay for a second. The expert takes at most 72 steps, and 167.
AT_REST = Protocol(
    name="at_rest", version=1, step_limit=250, cameras=CAMERAS, n_action_steps=1, success_rule="held", hold_steps=10
)


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """What the adapter must know of an episode: the seed of its scene, what to say, and which puck belongs where."""
    _, instruction, goals = TASKS[task.name]
    return {"seed": initial_state, "instruction": instruction, "goals": goals}


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """The same for the initial states that policies are trained from, none of which is evaluated."""
    return payload(task, TRAINING + number, protocol)


SUITE = Suite(
    name="gantry",
    title="A finger on a gantry pushes coloured pucks onto coloured goals, on MuJoCo",
    adapter="vlarig_gantry.env:GantryEnv",
    runtime="gantry",
    embodiment=ROBOT,
    tasks=tuple(Task(name, tuple(range(first, first + INITIAL_STATES))) for name, (first, _, _) in TASKS.items()),
    protocols=(STANDARD, AT_REST),
    source="defined here: the simulator in world.py and gantry.xml, tasks and protocols in suite.py",
    payload=payload,
    training=training,
    footprint=Footprint(process=400, env=10),
    trial=Trial(upstream="vlarig_gantry.evaluator:GantryEvaluator", protocols=(STANDARD, AT_REST)),
)
