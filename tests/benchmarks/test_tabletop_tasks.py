"""The generated tasks' data: what their scenes, goals, programs and words promise, without a simulator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.tabletop import generated
from vlarig.benchmarks.tabletop.generated import TABLETOP_TASKS as SUITE
from vlarig.benchmarks.tabletop.generated import TASKS
from vlarig.benchmarks.tabletop.scenes import PLACEMENTS, SCENES
from vlarig.benchmarks.tabletop.words import program
from vlarig.envs.tabletop import layout
from vlarig.envs.tabletop.goals import Goal
from vlarig.envs.tabletop.world import ObjectState, World

each_task = pytest.mark.parametrize("task", SUITE.tasks, ids=lambda task: task.name)


def payloads(task: Any, count: int = 12) -> list[dict[str, Any]]:
    return [SUITE.payload(task, state, SUITE.protocols[0]) for state in task.initial_states[:count]]


def start(scene: dict[str, Any]) -> World:
    objects = {}
    for each in scene["objects"]:
        height = layout.TABLE_TOP + layout.SHAPES[each["shape"]].half_size[2]
        objects[each["name"]] = ObjectState(each["shape"], np.array([each["x"], each["y"], height]), np.eye(3), 0.0, 0.0, False)
    places = {each["name"]: np.array([each["x"], each["y"]]) for each in (*scene["trays"], *scene["zones"])}
    return World(objects, places)


def names_in(data: Any) -> set[str]:
    """All names of objects that a goal uses."""
    if isinstance(data, list):
        return set().union(*map(names_in, data)) if data else set()
    if isinstance(data, dict):
        return set().union(*(names_in(value) for key, value in data.items() if key not in ("kind", "side", "axis")), set())
    return {data} if isinstance(data, str) else set()


def test_there_are_tasks_enough_and_a_third_are_of_a_long_horizon() -> None:
    assert len(SUITE.tasks) == len(TASKS) >= 30
    assert sum(task.moves > 1 for task in TASKS.values()) >= len(TASKS) / 3
    assert {state % SCENES for task in SUITE.tasks for state in task.initial_states} == set(range(20))
    assert {state // SCENES for task in SUITE.tasks for state in task.initial_states} == set(range(PLACEMENTS))


@pytest.mark.slow
def test_the_committed_placements_are_what_is_made() -> None:
    assert generated.PLACEMENTS_FILE.read_text() == generated.placements_text()


@each_task
def test_no_goal_is_reached_at_the_start_and_all_names_are_there(task: Any) -> None:
    for scene in payloads(task):
        world = start(scene)
        assert not Goal(scene["goal"]).update(world)
        assert names_in(scene["goal"]) <= set(world.objects) | set(world.places)
        skills = program(json.dumps(scene["program"]).encode())
        assert {skill.object for skill in skills} <= set(world.objects)
        assert len({skill.object for skill in skills}) >= min(TASKS[task.name].moves, 2)


@each_task
def test_instructions_vary_and_fill_every_blank(task: Any) -> None:
    words = [scene["instruction"] for scene in payloads(task, 20)]
    assert not any("{" in each or "  " in each for each in words)
    assert len(set(words)) >= 2
    assert words == [scene["instruction"] for scene in payloads(task, 20)]


def test_training_is_endless_and_never_meets_a_committed_placement() -> None:
    task = SUITE.task("group_and_leave")
    committed = [scene["objects"] for scene in payloads(task, 200)]
    further = [SUITE.training_episode(task, number, SUITE.protocols[0]).payload for number in range(6)]
    assert len({json.dumps(scene["objects"]) for scene in further}) == 6
    assert all(scene["objects"] not in committed for scene in further)


def test_an_initial_state_that_does_not_suit_a_task_is_named() -> None:
    task = SUITE.task("sort_by_colour")
    unfit = next(state for state in range(200) if state not in task.initial_states)
    with pytest.raises(ValueError, match=f"initial state {unfit} does not suit"):
        SUITE.payload(task, unfit, SUITE.protocols[0])


def test_the_randomized_protocol_alone_carries_the_ranges() -> None:
    task = SUITE.tasks[0]
    plain, random = (SUITE.payload(task, task.initial_states[0], SUITE.protocol(name)) for name in ("standard", "randomized"))
    assert random.pop("randomization")["sun"]
    assert random == plain
