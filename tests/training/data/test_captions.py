"""Segments and captions of demonstrations: from real episodes of the expert, and from stages that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watching_expert import WatchingExpert

from vlarig.harness import evaluate
from vlarig.harness.runtimes.runtime import Runtime
from vlarig.training.data.captions import DIMENSIONS, describe_episode
from vlarig.training.data.errors import DataError


def played(suite: str, task: str, run: Path) -> tuple[list[str], list[Any], np.ndarray, str]:
    """One episode of the expert: its stages, the truth and the states of its steps, and the instruction."""
    evaluation = evaluate(suite, "watching_expert:WatchingExpert", episodes=1, tasks=(task,), workers=1, run=run)
    (record,) = evaluation.records()
    assert record.success
    pairs = WatchingExpert.seen[record.key]
    stages = [stage for _, reply in pairs for stage in reply.stages or ()]
    states = np.stack([request.observation["state"] for request, _ in pairs])
    return stages, [request.privileged for request, _ in pairs], states, pairs[0][0].observation["instruction"]


def test_a_long_episode_is_told_step_by_step(tabletop: Runtime, tmp_path: Path) -> None:
    stages, truth, states, instruction = played("tabletop_tasks", "stack_then_tray", tmp_path / "run")
    described = describe_episode(stages, truth, states)
    assert [segment.dimensions["action_primitive"] for segment in described.segments] == ["pick up", "place"] * 2
    assert [segment.first for segment in described.segments] == [0] + [one.last + 1 for one in described.segments[:-1]]
    assert described.segments[-1].last == len(stages) - 1
    upper, lower = instruction.split("the ")[1].split(" on")[0], described.dimensions["spatial_relations"][1]
    assert upper.strip() in described.segments[0].label
    assert lower.startswith("above the")
    assert described.dimensions["spatial_relations"][3].startswith("in the ")
    assert described.caption.startswith("Step 1: Pick up the ")
    assert "Step 4: Carry the " in described.caption
    for name in DIMENSIONS:
        assert all(described.dimensions[name]), name


def test_a_push_is_one_segment(tabletop: Runtime, tmp_path: Path) -> None:
    stages, truth, states, _ = played("tabletop", "push_to", tmp_path / "run")
    assert stages[0].startswith("reach behind the ")
    (segment,) = describe_episode(stages, truth, states).segments
    assert segment.label.startswith("push the ")
    assert segment.dimensions["contact_region"].startswith("at its ")


def made_up(steps: int = 6) -> tuple[list[str], list[dict[str, np.ndarray]], np.ndarray]:
    pose = np.array([0.05, -0.2, 0.8225, 1.0, 0.0, 0.0, 0.0])
    truth = [
        {"object/red cube": pose + np.eye(7)[1] * 0.06 * step, "object/blue cube": pose + np.eye(7)[0]} for step in range(steps)
    ]
    stages = ["reach the red cube", "grasp the red cube", "carry the red cube to the table"]
    stages += ["place the red cube on the table", "retreat from the red cube", "wait"]
    return stages, truth, np.full((steps, 8), 0.04, np.float32)


def test_a_caption_says_where_from_and_where_to() -> None:
    described = describe_episode(*made_up())
    first, second = described.segments
    assert (first.first, first.last, second.first, second.last) == (0, 1, 2, 5)
    assert "from the near left of the table" in first.words
    assert "18 cm to the right" in second.words
    assert first.dimensions["object_disambiguation"] == "the red cube, not the blue cube"


def test_what_does_not_fit_is_refused() -> None:
    stages, truth, states = made_up()
    with pytest.raises(DataError, match="5 stages, the truth of 6 steps"):
        describe_episode(stages[:5], truth, states)
    with pytest.raises(DataError, match="no stage names a motion"):
        describe_episode(["wait"] * 6, truth, states)
    with pytest.raises(DataError, match="give those of tabletop"):
        describe_episode(stages, [{"hand": np.zeros(7)}] * 6, states)
    with pytest.raises(DataError, match="'reach the green cube'"):
        describe_episode(["reach the green cube", *stages[1:]], truth, states)
