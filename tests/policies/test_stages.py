"""Experts name the stage of each step, and the names arrive wherever the policy runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from toy.env import TOY_POINT
from toy.policies import ImageReader

from vlarig.envs.api import Observation
from vlarig.policies.api import PolicyError, Reply, Request
from vlarig.policies.calls import checked_replies
from vlarig.policies.experts import EpisodeState, ScriptedExpert
from vlarig.policies.replica_messages import PackedReply, decode, encode


def request(chunk: int = 0) -> Request:
    observation = Observation(images={}, state=np.zeros(3, np.float32), instruction="move the point to the red goal")
    return Request(0, "toy/standard@1/reach_red/base/0/0", chunk, 5, observation, TOY_POINT, n_action_steps=8)


class Expert(ScriptedExpert[int]):
    """Names its stages, the first step apart."""

    def _see(self, request: Request) -> int:
        return 0

    def _script(self, request: Request, state: EpisodeState[int]) -> Iterator[np.ndarray]:
        yield np.zeros(3)
        state.stage = "reach the goal"
        while True:
            yield np.ones(3)


def test_a_stage_begins_with_the_step_that_it_is_set_before() -> None:
    expert = Expert()
    replies = [expert.reply(request(chunk)) for chunk in range(3)]
    assert [reply.stages for reply in replies] == [None, ("reach the goal",), ("reach the goal",)]


def test_stages_cross_process_borders_and_cost_next_to_nothing_where_there_are_none() -> None:
    actions = np.zeros((2, 3), np.float32)
    named = encode(PackedReply(Reply(actions, stages=("grasp the red cube", "lift the red cube"))))
    packed: Any = decode(named)
    assert packed.reply.stages == ("grasp the red cube", "lift the red cube")
    bare = encode(PackedReply(Reply(actions)))
    unnamed: Any = decode(bare)
    assert unnamed.reply.stages is None
    assert len(bare) < len(named) - 30


@pytest.mark.parametrize(
    ("stages", "words"),
    [(("reach",), "1 stages for 8 steps"), ("reach it", "a text for each step"), ((1,) * 8, "a text for each")],
)
def test_stages_that_are_not_one_a_step_are_refused(stages: Any, words: str) -> None:
    policy = ImageReader(8)
    with pytest.raises(PolicyError, match=words):
        checked_replies(policy, [request()], lambda requests: [Reply(np.zeros((8, 3), np.float32), stages=stages)])


def test_checked_replies_keep_their_stages() -> None:
    names = tuple(f"part {number}" for number in range(8))
    (reply,) = checked_replies(
        ImageReader(8), [request()], lambda requests: [Reply(np.zeros((8, 3), np.float32), stages=names)]
    )
    assert reply.stages == names


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((7, 3), np.float32), "7 labels for 8 steps"),
        (np.zeros((8, 2), np.float32), "bad labels"),
        ("left", "bad labels"),
    ],
)
def test_labels_that_are_not_one_action_a_step_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        checked_replies(ImageReader(8), [request()], lambda requests: [Reply(np.zeros((8, 3), np.float32), labels=labels)])


def test_labels_cross_process_borders() -> None:
    labels = np.ones((8, 3), np.float32)
    (reply,) = checked_replies(
        ImageReader(8), [request()], lambda requests: [Reply(np.zeros((8, 3), np.float32), labels=labels)]
    )
    packed: Any = decode(encode(PackedReply(reply)))
    np.testing.assert_array_equal(packed.reply.labels, labels)


def test_keypoints_are_fourteen_finite_numbers_a_step_and_cross_process_borders() -> None:
    actions, keypoints = np.zeros((8, 3), np.float32), np.ones((8, 14))
    (reply,) = checked_replies(ImageReader(8), [request()], lambda requests: [Reply(actions, keypoints=keypoints)])
    packed = decode(encode(PackedReply(reply)))
    assert isinstance(packed, PackedReply) and np.array_equal(packed.reply.keypoints, keypoints)
    for wrong in (keypoints[:7], keypoints * np.nan):
        with pytest.raises(PolicyError, match=r"with keypoints of shape .* expected finite numbers \[8, 14\]"):
            checked_replies(ImageReader(8), [request()], lambda requests, wrong=wrong: [Reply(actions, keypoints=wrong)])
