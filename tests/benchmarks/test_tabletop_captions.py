"""Segments and captions of demonstrations: from real episodes of the expert, and from stages that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watching_expert import WatchingExpert

from vlarig.benchmarks.captions import DIMENSIONS, Description
from vlarig.benchmarks.tabletop.captions import describe_episode
from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes.runtime import Runtime
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness import evaluate


def played(suite: str, task: str, run: Path) -> tuple[list[str], list[Any], np.ndarray, str]:
    """One episode of the expert: its stages, the truth and the states of its steps, and the instruction."""
    evaluation = evaluate(suite, "watching_expert:WatchingExpert", episodes=1, tasks=(task,), workers=1, run=run)
    (record,) = evaluation.records()
    assert record.success
    pairs = WatchingExpert.seen[record.key]
    stages = [stage for _, reply in pairs for stage in reply.stages or ()]
    states = np.stack([request.observation["state"] for request, _ in pairs])
    return stages, [request.privileged for request, _ in pairs], states, pairs[0][0].observation["instruction"]


@pytest.mark.slow
def test_a_long_episode_is_told_step_by_step(tabletop: Runtime, tmp_path: Path) -> None:
    stages, truth, states, instruction = played("tabletop_tasks", "stack_then_tray", tmp_path / "run")
    found = described(stages, truth, states)
    assert [segment.dimensions["action primitive"] for segment in found.segments] == ["pick up", "place"] * 2
    assert [segment.begin for segment in found.segments] == [0] + [one.end for one in found.segments[:-1]]
    assert found.segments[-1].end == len(stages)
    upper, lower = instruction.split("the ")[1].split(" on")[0], found.dimensions["spatial relations"][1]
    assert upper.strip() in found.segments[0].label
    assert lower.startswith("above the")
    assert found.dimensions["spatial relations"][3].startswith("in the ")
    assert found.caption.startswith("Step 1: Pick up the ")
    assert "Step 4: Carry the " in found.caption
    for name in DIMENSIONS:
        assert all(found.dimensions[name]), name


@pytest.mark.slow
def test_a_push_is_one_segment(tabletop: Runtime, tmp_path: Path) -> None:
    stages, truth, states, _ = played("tabletop", "push_to", tmp_path / "run")
    assert stages[0].startswith("reach behind the ")
    (segment,) = described(stages, truth, states).segments
    assert segment.label.startswith("push the ")
    assert segment.dimensions["contact region"].startswith("at its ")


def described(stages: list[str], truth: list[dict[str, np.ndarray]], states: np.ndarray) -> Description:
    found = describe_episode(stages, truth, states, TABLETOP_PANDA)
    assert found is not None
    return found


def made_up(steps: int = 6) -> tuple[list[str], list[dict[str, np.ndarray]], np.ndarray]:
    pose = np.array([0.05, -0.2, 0.8225, 1.0, 0.0, 0.0, 0.0])
    truth = [
        {"object/red cube": pose + np.eye(7)[1] * 0.06 * step, "object/blue cube": pose + np.eye(7)[0]} for step in range(steps)
    ]
    stages = ["reach the red cube", "grasp the red cube", "carry the red cube to the table"]
    stages += ["place the red cube on the table", "retreat from the red cube", "wait"]
    return stages, truth, np.full((steps, 8), 0.04, np.float32)


def test_a_caption_says_where_from_and_where_to() -> None:
    found = described(*made_up())
    first, second = found.segments
    assert (first.begin, first.end, second.begin, second.end) == (0, 2, 2, 6)
    assert "from the near left of the table" in first.words
    assert "18 cm to the right" in second.words
    assert first.dimensions["object disambiguation"] == "the red cube: not the blue cube"


def test_what_a_stage_set_out_to_do_is_not_taken_for_done() -> None:
    stages, truth, states = made_up()
    assert described(stages, truth, states).segments[0].words.startswith("Try to pick up the red cube")  # its height stays
    for step in truth:
        step["tray/white tray"] = np.array([0.05, 0.5, 0.8])
    stages[3] = "place the red cube in the white tray"
    missed = described(stages, truth, states).segments[1]
    assert missed.label == "place the red cube in the white tray"
    assert missed.words.endswith("and let it go at the near right of the table, not in the white tray.")
    truth[-1]["object/red cube"] = truth[-1]["object/red cube"] + np.array([0, 0.4, 0, 0, 0, 0, 0])
    assert (
        described(stages, truth, states)
        .segments[1]
        .words.endswith("place it in the white tray, at the near right of the table.")
    )
    held = described(stages, truth, np.full((6, 8), 0.02, np.float32)).segments[1]
    assert held.words.endswith("above the table.")


def test_a_second_try_is_part_of_the_first_and_a_side_is_named() -> None:
    stages, truth, _ = made_up()
    again = ["reach the red cube", "grasp the red cube", "lift the red cube", "reach the red cube", *stages[1:2]]
    beside = ["carry the red cube to the blue cube", "place the red cube next to the blue cube"]
    for number, step in enumerate(truth := truth + [dict(truth[-1]) for _ in beside]):
        step["object/blue cube"] = truth[-1]["object/red cube"] + np.array([0.09, 0.01, 0, 0, 0, 0, 0])
        step["object/red cube"] = step["object/red cube"] + np.eye(7)[2] * 0.05 * (number > 2)
    found = described([*again, *beside, "wait"], truth, np.full((8, 8), 0.04, np.float32))
    assert [(each.begin, each.end, each.label) for each in found.segments] == [
        (0, 5, "pick up the red cube"), (5, 8, "place the red cube behind the blue cube")
    ]  # fmt: skip
    assert found.segments[0].words.endswith("and lift it.")


def test_what_does_not_fit_is_refused() -> None:
    stages, truth, states = made_up()
    with pytest.raises(VlarigError, match="5 stages, the truth of 6 steps"):
        described(stages[:5], truth, states)
    with pytest.raises(VlarigError, match="give those of tabletop"):
        described(stages, [{"hand": np.zeros(7)}] * 6, states)
    with pytest.raises(VlarigError, match="'reach the green cube'"):
        described(["reach the green cube", *stages[1:]], truth, states)


def test_stages_in_other_words_are_no_captions() -> None:
    _, truth, states = made_up()
    assert describe_episode(["hurry"] * 6, truth, states, TABLETOP_PANDA) is None
