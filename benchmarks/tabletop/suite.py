"""The embedded suite: five language-conditioned tasks on a table, with fixed starts and experts that solve them.

The tasks differ in what counts as success, not in names alone: into a container, beside another object on a side, on top of another,
pushed without lifting, and two things in an order. The committed starts, 0 to 49, are for evaluation. Any other start is sampled when
it is asked for, by the function that made the committed ones: an endless supply for training that never meets them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.embodiments import TABLETOP_PANDA
from ..suite import Footprint, Suite, Task
from .sampler import MAKERS, sample

STARTS_FILE = Path(__file__).with_name("starts.json")
STARTS = tuple(range(50))

#: Rows an episode may last. The expert takes about 80 rows for one object and 175 for two, at most 206 where it has to try again; a
#: fifth more is left to slower policies.
STEP_LIMIT = 240

#: A goal must hold for a quarter of a second: an object that has been let go and topples or rolls on has left it by then.
HOLD_STEPS = 5

STANDARD = Protocol(
    name="standard",
    version=1,
    step_limit=STEP_LIMIT,
    cameras=(Camera("ego", 128, 128), Camera("cam_left_wrist", 128, 128)),
    execute=16,
    success_rule="held",
    hold_steps=HOLD_STEPS,
)


@cache
def _committed() -> dict[str, list[dict[str, Any]]]:
    """Task to its committed scenes, in the order of their starts."""
    return json.loads(STARTS_FILE.read_text())


def payload(task: Task, start: int, protocol: Protocol) -> dict[str, Any]:
    """The scene of a start: from the committed file, or sampled where it is not among them."""
    return _committed()[task.name][start] if start in STARTS else sample(task.name, start)


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """A scene that is sampled with a seed beyond those of the committed starts."""
    return sample(task.name, len(STARTS) + number)


def starts_text() -> str:
    """What the committed file holds, made anew by the sampler: one line a scene."""
    tasks = []
    for task in MAKERS:
        scenes = ",\n".join(json.dumps(sample(task, start), separators=(",", ":")) for start in STARTS)
        tasks.append(f'"{task}":[\n{scenes}\n]')
    return "{\n" + ",\n".join(tasks) + "\n}\n"


TABLETOP = Suite(
    name="tabletop",
    title="Five language-conditioned tasks on a table, embedded in the package",
    adapter="vlarig.envs.tabletop.env:TabletopEnv",
    runtime="tabletop",
    embodiment=TABLETOP_PANDA,
    tasks=tuple(Task(name, STARTS) for name in MAKERS),
    protocols=(STANDARD,),
    source="defined here, in benchmarks/tabletop/sampler.py and envs/tabletop/goals.py",
    payload=payload,
    training=training,
    footprint=Footprint(process=500, slot=10),  # benchmarks/speed/many_slots.py: 128 slots in two workers took 1.9 GB
)
