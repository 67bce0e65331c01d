"""The embedded suite: five language-conditioned tasks on a table, with fixed initial states and experts that solve them.

The tasks differ in what counts as success, not in names alone: into a container, beside another object on a side, on top of another,
pushed without lifting, and two objects in an order. The committed initial states, 0 to 49, are for evaluation. Any other is
sampled on request, by the function that made the committed ones: an endless supply for training that never meets them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.tabletop.robot import TABLETOP_PANDA
from ..suite import Footprint, Suite, Task
from ..trial import Trial
from .assorted import assorted
from .captions import describe_episode
from .protocols import instruction_of, paraphrased, randomized, ranges_of
from .sampler import MAKERS, sample

INITIAL_STATES_FILE = Path(__file__).with_name("initial_states.json")
INITIAL_STATES = tuple(range(50))

#: Steps an episode may last. The expert takes about 80 steps for one object and 175 for two, at most 206 where it has to try again; a
#: fifth more is left to slower policies.
STEP_LIMIT = 240

#: A goal must hold for a quarter of a second: an object that has been let go and topples or rolls on has left it by then.
HOLD_STEPS = 5

STANDARD = Protocol(
    name="standard",
    version=1,
    step_limit=STEP_LIMIT,
    cameras=(Camera("ego", 128, 128), Camera("cam_left_wrist", 128, 128)),
    n_action_steps=16,
    success_rule="held",
    hold_steps=HOLD_STEPS,
)


@cache
def _committed() -> dict[str, list[dict[str, Any]]]:
    """Task to its committed scenes, in the order of their initial states."""
    return json.loads(INITIAL_STATES_FILE.read_text())


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """The scene of an initial state: from the committed file, or sampled where it is not among them."""
    scene = _committed()[task.name][initial_state] if initial_state in INITIAL_STATES else sample(task.name, initial_state)
    return {**scene, "instruction": instruction_of(scene, initial_state, protocol), **ranges_of(protocol)}


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """A scene that is sampled with a seed beyond those of the committed initial states, without the pair that is held out."""
    scene = sample(task.name, len(INITIAL_STATES) + number, training=True)
    return {**scene, "instruction": instruction_of(scene, number, protocol), **ranges_of(protocol)}


def initial_states_text() -> str:
    """The content of the committed file, as the sampler makes it: one line a scene."""
    tasks = []
    for task in MAKERS:
        scenes = ",\n".join(json.dumps(sample(task, initial_state), separators=(",", ":")) for initial_state in INITIAL_STATES)
        tasks.append(f'"{task}":[\n{scenes}\n]')
    return "{\n" + ",\n".join(tasks) + "\n}\n"


TABLETOP = Suite(
    name="tabletop",
    title="Five language-conditioned tasks on a table, embedded in the package",
    adapter="vlarig.envs.tabletop.env:TabletopEnv",
    runtime="tabletop",
    embodiment=TABLETOP_PANDA,
    tasks=tuple(Task(name, INITIAL_STATES) for name in MAKERS),
    protocols=(STANDARD, randomized(STANDARD), paraphrased(STANDARD)),
    source="defined here, in benchmarks/tabletop/sampler.py and envs/tabletop/goals.py",
    payload=payload,
    training=training,
    assorted=assorted,
    describer=describe_episode,
    footprint=Footprint(process=500, env=10),  # 128 envs in two workers took 1.9 GB
    trial=Trial(tasks=("pick_into", "push_to", "stack"), upstream="vlarig.envs.tabletop.evaluator:RobosuiteLoop"),
)
