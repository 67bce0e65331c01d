"""The tabletop suite's data: what the committed initial states promise, without a simulator."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.tabletop import suite as tabletop
from vlarig.benchmarks.tabletop.sampler import OBJECT_GAP, TRAY_GAP, sample
from vlarig.benchmarks.tabletop.words import nearest, parse
from vlarig.envs.tabletop import layout

SUITE = tabletop.TABLETOP
TASKS = SUITE.tasks


def scenes(task: Any) -> list[dict[str, Any]]:
    return [SUITE.payload(task, number, tabletop.STANDARD) for number in task.initial_states]


def named(goal: dict[str, Any]) -> list[str]:
    """The names that a goal uses, in the order of the instruction."""
    parts = goal.get("parts", [goal])
    return [part[key] for part in parts for key in ("object", "tray", "reference", "base", "zone") if key in part]


@pytest.mark.slow
def test_the_committed_initial_states_are_what_the_sampler_makes() -> None:
    committed = tabletop.INITIAL_STATES_FILE.read_text()
    assert committed == tabletop.initial_states_text()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_there_are_fifty_different_initial_states(task: Any) -> None:
    assert task.initial_states == tuple(range(50))
    assert len({json.dumps(scene, sort_keys=True) for scene in scenes(task)}) == 50
    assert len({scene["instruction"] for scene in scenes(task)}) > 20


def test_other_initial_states_are_sampled_and_never_repeat_a_committed_one() -> None:
    for task in TASKS:
        committed = [scene["objects"] for scene in scenes(task)]
        further = SUITE.payload(task, 1_000_003, tabletop.STANDARD)
        assert further == sample(task.name, 1_000_003)
        assert further["objects"] not in committed


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_word_matters(task: Any) -> None:
    for scene in scenes(task):
        kinds = {(each["shape"], each["colour"]) for each in scene["objects"]}
        for shape, colour in kinds:
            assert any(s == shape and c != colour for s, c in kinds)
            assert any(s != shape and c == colour for s, c in kinds)
        for places in (scene["trays"], scene["zones"]):
            assert len(places) in (0, 2)
            assert len({place["colour"] for place in places}) == len(places)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_instruction_names_just_what_the_goal_uses(task: Any) -> None:
    for scene in scenes(task):
        names = [each["name"] for kind in ("objects", "trays", "zones") for each in scene[kind]]
        assert len(set(names)) == len(names)
        mentioned = sorted((name for name in names if f"the {name}" in scene["instruction"]), key=scene["instruction"].index)
        assert mentioned == named(scene["goal"])
        if "side" in scene["goal"]:
            assert f"to the {scene['goal']['side']} of" in scene["instruction"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_nothing_touches_at_the_initial_state(task: Any) -> None:
    for scene in scenes(task):
        spots = [np.array([each["x"], each["y"]]) for each in scene["objects"]]
        assert all(np.linalg.norm(a - b) >= OBJECT_GAP for a, b in combinations(spots, 2))
        for tray in scene["trays"]:
            outside = [np.abs(spot - (tray["x"], tray["y"])).max() - layout.TRAY_OUTER for spot in spots]
            assert min(outside) >= TRAY_GAP / np.sqrt(2) - 1e-6


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_expert_understands_every_instruction(task: Any) -> None:
    for scene in scenes(task):
        skills = parse(scene["instruction"])
        assert [word for skill in skills for word in (skill.object, skill.place)] == named(scene["goal"])
        assert [skill.kind for skill in skills] == [part["kind"] for part in scene["goal"].get("parts", [scene["goal"]])]


def test_an_absent_name_falls_to_the_nearest() -> None:
    assert nearest("red cube", ["blue cylinder", "blue cube", "red cylinder"]) == "blue cube"
    assert nearest("red cube", []) == ""
    assert parse("dance") == []
