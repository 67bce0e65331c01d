"""The suite ``tabletop_tasks``: generated tasks over 20 scenes of 10 placements, in the embedded suite's simulator.

An initial state is a placement of a scene, ``20 * placement + scene``; a task has those that suit it. Everything is a function of its
name and that number. Which placement suits which task is committed, as the placements are, so that loading the suite samples nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.api import Protocol
from ..suite import Task
from .long_tasks import LONG
from .protocols import randomized, ranges_of
from .sampler import as_data
from .scenes import PLACEMENTS, SCENES, SEED, Layout, contents, layout_of
from .short_tasks import SHORT
from .suite import STANDARD as ONE_TASK
from .suite import TABLETOP

#: The tasks, in the order of tables.
TASKS = {**SHORT, **LONG}

PLACEMENTS_FILE = Path(__file__).with_name("placements.json")
_FOUND: dict[str, Any] = json.loads(PLACEMENTS_FILE.read_text())

#: Steps that the expert takes for moving one object, twice over; and once more for a second try.
MOVE_STEPS = 150
FIRST_STEPS = 100

STANDARD = replace(
    ONE_TASK,
    step_limit=FIRST_STEPS + MOVE_STEPS,
    task_limits={name: FIRST_STEPS + MOVE_STEPS * task.moves for name, task in TASKS.items() if task.moves > 1},
)

#: Placements that are tried for an initial state that is not committed.
TRIES = 200


def made(task: str, initial_state: int, scene: Layout) -> dict[str, Any] | None:
    """The payload of a task in a placement; ``None`` where that does not suit it."""
    template = TASKS[task]
    rng = np.random.default_rng([SEED, 1, list(TASKS).index(task), initial_state])
    found = template.make(scene, rng)
    if found is None:
        return None
    wording = template.words[int(rng.integers(len(template.words)))]
    return {
        "instruction": wording.format(**found.words),
        **as_data(scene.spots, scene.yaws, scene.trays, scene.zones),
        "goal": found.goal,
        "program": found.program,
    }


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """The scene of an initial state: of a committed placement, or of a further one where it is not among them."""
    if initial_state < SCENES * PLACEMENTS:
        scene = made(task.name, initial_state, _committed()[initial_state])
        if scene is None:
            raise ValueError(
                f"initial state {initial_state} does not suit the task {task.name!r}; it has {task.initial_states}"
            )
        return {**scene, **ranges_of(protocol)}
    return training(task, initial_state - SCENES * PLACEMENTS, protocol)


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """A placement that is sampled beyond the committed ones, of a scene that suits the task."""
    scenes = sorted({state % SCENES for state in task.initial_states})
    for attempt in range(TRIES):
        place = layout_of(scenes[(number + attempt) % len(scenes)], PLACEMENTS + number * TRIES + attempt)
        scene = made(task.name, SCENES * PLACEMENTS + number, place)
        if scene is not None:
            return {**scene, **ranges_of(protocol)}
    raise ValueError(f"none of {TRIES} placements suits the task {task.name!r} for its number {number}; take another number")


def placements_text() -> str:
    """The content of the committed file: the placements, one a line, and each task's initial states."""
    scenes = [layout_of(state % SCENES, state // SCENES) for state in range(SCENES * PLACEMENTS)]
    lines = []
    for scene in scenes:
        spots = {name: [float(number) for number in spot] for name, spot in scene.spots.items()}
        lines.append(json.dumps({"spots": spots, "yaws": [scene.yaws[name] for name in scene.names]}, separators=(",", ":")))
    suited = {name: [state for state, scene in enumerate(scenes) if made(name, state, scene)] for name in TASKS}
    tasks = ",\n".join(f'"{name}":{json.dumps(states, separators=(",", ":"))}' for name, states in suited.items())
    return '{"placements":[\n' + ",\n".join(lines) + '\n],"tasks":{\n' + tasks + "\n}}\n"


@cache
def _committed() -> list[Layout]:
    layouts = []
    for state, line in enumerate(_FOUND["placements"]):
        names, trays, zones = contents(state % SCENES)
        spots = {name: np.array(spot) for name, spot in line["spots"].items()}
        layouts.append(Layout(names, trays, zones, spots, dict(zip(names, line["yaws"], strict=True))))
    return layouts


TABLETOP_TASKS = replace(
    TABLETOP,
    name="tabletop_tasks",
    title=f"{len(TASKS)} generated tasks on a table, in {SCENES} scenes of {PLACEMENTS} placements",
    tasks=tuple(Task(name, tuple(states)) for name, states in _FOUND["tasks"].items()),
    protocols=(STANDARD, randomized(STANDARD)),
    source="defined here, in benchmarks/tabletop/short_tasks.py and long_tasks.py, and envs/tabletop/predicates.py",
    payload=payload,
    training=training,
    trial=replace(TABLETOP.trial, tasks=()),
)
