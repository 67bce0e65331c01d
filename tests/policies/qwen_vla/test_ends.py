"""The ends of prompts: the truth goes in and comes out whatever the hand's pose, errors weigh, and what is said is learned."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from vlarig.envs.embodiments import pose_and_fingers
from vlarig.envs.keypoints import Keypoints
from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.config import LAST_TOKENS
from vlarig.policies.qwen_vla.conversation import Conversation, Turn
from vlarig.policies.qwen_vla.end_numbers import NUMBERS, READ, blurred, end_numbers, hand_pose
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted
from vlarig.policies.qwen_vla.model import Batch, build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.poses import euler_matrix, rotation_matrix
from vlarig.policies.qwen_vla.readouts import Ends, ends_loss, relations
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer, token_ids

STEP = Keypoints(np.array([0.1, -0.2, 0.87]), np.array([0.05, 0.2, 0.85]), np.array([0.05, 0.2, 0.9]), turn=0.3)
LAYOUT = pose_and_fingers("axis_angle_from_down")


def state(angle: float, position: tuple[float, float, float] = (0.0, 0.1, 1.0)) -> np.ndarray:
    """A hand that looks down and is turned about the vertical."""
    return np.array([*position, 0, 0, angle, 0.04, -0.04], np.float32)


def as_read(keypoints: Keypoints, pose: np.ndarray, logs: float = -3.0) -> np.ndarray:
    return np.concatenate([end_numbers(keypoints.numbers(), pose), np.full(READ - NUMBERS, logs)]).astype(np.float32)


def test_the_hands_pose_is_read_by_the_names_of_the_states_numbers() -> None:
    pose = hand_pose(state(0.5), LAYOUT)
    np.testing.assert_allclose(pose[:3], [0, 1, 10], atol=1e-6)
    np.testing.assert_allclose(pose[3:].reshape(3, 3), rotation_matrix(np.array([0, 0, 0.5])), atol=1e-6)
    widowx = ("position_x", "position_y", "position_z", "roll", "pitch", "yaw", "gripper")
    other = hand_pose(np.array([0, 0, 0.1, 0.1, 0.2, 0.3, 1], np.float32), widowx)
    np.testing.assert_allclose(other[3:].reshape(3, 3), euler_matrix(np.array([0.1, 0.2, 0.3])), atol=1e-6)
    np.testing.assert_array_equal(hand_pose(np.ones(2), ("joint_1", "joint_2")), [0, 0, 0, *np.eye(3).ravel()])


@pytest.mark.parametrize("angle", [0.0, 0.7, -1.2])
def test_relations_of_the_truth_are_where_things_are_from_the_hand(angle: float) -> None:
    pose = hand_pose(state(angle), LAYOUT)
    found = relations(torch.from_numpy(as_read(STEP, pose))[None], torch.from_numpy(pose)[None])[0].numpy()
    np.testing.assert_allclose(found[:3], 10 * (STEP.object - [0, 0.1, 1.0]), atol=1e-4)
    np.testing.assert_allclose(found[6:9], 10 * (STEP.place - [0, 0.1, 1.0]), atol=1e-4)
    np.testing.assert_allclose(found[9:12], 10 * (STEP.place - STEP.object), atol=1e-4)
    turns = [each(times * (0.3 - angle)) for times in (2, 4) for each in (math.cos, math.sin)]
    np.testing.assert_allclose(found[15:19], turns, atol=1e-4)


@pytest.mark.parametrize("quarters", [False, True])
def test_a_turn_is_the_same_after_as_much_of_a_turn_as_the_object_is(quarters: bool) -> None:
    def turn(angle: float | None) -> np.ndarray:
        return dataclasses.replace(STEP, turn=angle, quarters=quarters).numbers()[9:13]

    np.testing.assert_allclose(turn(0.3 + math.pi / (2 if quarters else 1)), turn(0.3), atol=1e-6)
    assert quarters or np.abs(turn(0.3 + math.pi / 2) - turn(0.3)).max() > 1
    np.testing.assert_array_equal(turn(None), 0)


def test_of_two_readings_the_one_with_the_smaller_error_counts() -> None:
    pose = hand_pose(state(0.4), LAYOUT)
    read = as_read(STEP, pose)
    right = relations(torch.from_numpy(read)[None], torch.from_numpy(pose)[None])[0, :3]
    read[9:12] += 1.0  # the object is read 17 cm beside at the hand
    for logs, most in ((2.0, 0.01), (-3.0, 1.0)):
        read[NUMBERS + 3] = logs
        off = (relations(torch.from_numpy(read)[None], torch.from_numpy(pose)[None])[0, :3] - right).abs().max()
        assert (off < most) == (logs == 2.0) or off > 0.3
        assert off < 0.01 if logs == 2.0 else off > 0.3


def test_the_loss_is_least_at_the_truth_and_its_errors_own_size() -> None:
    pose = hand_pose(state(0.4), LAYOUT)
    wanted = torch.from_numpy(end_numbers(STEP.numbers(), pose))[None].repeat(2, 1)
    wanted[1] = math.nan
    wanted[1, :2] = 3.0  # of a made-up task on a scene less is known
    found = torch.zeros(2, READ, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=0.05)
    for _ in range(600):
        total, count = ends_loss(found, wanted)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(count) == 2
    torch.testing.assert_close(found[0, :NUMBERS], wanted[0], atol=0.02, rtol=0)
    torch.testing.assert_close(found[1, :2], wanted[1, :2], atol=0.02, rtol=0)
    assert bool((found[1, 2:NUMBERS] == 0).all())
    for off in (0.5, 0.005):  # dm
        shifted = found.detach().clone()
        shifted[0, :3] = wanted[0, :3] + off
        losses = []
        for size in (1e-6, 0.8 * off, off, 1.2 * off):
            shifted[0, NUMBERS] = math.log(size)
            losses.append(float(ends_loss(shifted, wanted)[0]))
        assert losses[2] == min(losses)


def test_a_blur_has_about_the_size_that_it_says() -> None:
    numbers = end_numbers(STEP.numbers(), hand_pose(state(0.0), LAYOUT))
    rng = np.random.default_rng(0)
    read = np.stack([blurred(numbers, rng) for _ in range(4000)])
    off = np.abs(read[:, :18] - numbers[:18]).reshape(-1, 6, 3).mean(2)
    said = np.exp(read[:, NUMBERS:])
    assert 0.8 < np.median(off / said) < 1.2
    assert np.corrcoef(np.log(off).ravel(), np.log(said).ravel())[0, 1] > 0.7


@pytest.mark.slow
def test_the_end_of_a_prompt_learns_what_its_words_mean() -> None:
    """Two prompts, as questions with answers and as prompts to act: the read-out is of the same tokens in both."""
    tokenizer = small_tokenizer()
    tiny = PRESETS["tiny"](tokens=token_ids(tokenizer))
    config = dataclasses.replace(tiny, expert=dataclasses.replace(tiny.expert, context="ends"))
    builder, model = InputBuilder(config, tokenizer), build(config).train()
    texts = {"the red cube": np.full(NUMBERS, 0.5, np.float32), "the blue cube": np.full(NUMBERS, -0.5, np.float32)}
    taught = [Conversation((Turn("user", (text,)), Turn("assistant", ("yes",))), tuple(ends)) for text, ends in texts.items()]
    inputs = builder.build(taught)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        loss = model(Batch(inputs)).ends
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    acting = builder.build([Prompted(text) for text in texts])
    with torch.no_grad():
        context = model.encode(acting)
        found = model._for_expert(context)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found[:, :NUMBERS], np.stack([*texts.values()]), atol=0.1)


def test_the_read_out_is_of_the_last_tokens_alone() -> None:
    ends = Ends(8, LAST_TOKENS)
    states, valid = torch.randn(1, 9, 8), torch.tensor([[True] * 7 + [False] * 2])
    found = [ends(states, valid)]
    for token in range(9):
        changed = states.clone()
        changed[:, token] += 1
        found.append(ends(changed, valid))
    assert [not torch.equal(each, found[0]) for each in found[1:]] == [False] * 3 + [True] * 4 + [False] * 2


def test_a_conversation_with_other_numbers_is_refused() -> None:
    with pytest.raises(PolicyError, match="has 2 numbers of its prompt's end; expected 27"):
        Conversation((Turn("user", ("what?",)), Turn("assistant", ("yes",))), (0.0, 1.0))
