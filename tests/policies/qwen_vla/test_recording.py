"""What RL takes from recorded answers: gradients, ratios, both ways to the backbone's states, and what a recorded chunk weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import PolicyError, Recorded, Request
from vlarig.policies.qwen_vla.flow import Sde
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.recording import RecordedBatch, evaluate, shortened
from vlarig.policies.replica_messages import PackedReply, decode, encode

SDE = Sde()


def request(seed: int, embodiment: Embodiment = TABLETOP_PANDA, n_action_steps: int = 8) -> Request:
    rng = np.random.default_rng(seed)
    images = {tag: rng.integers(0, 256, (1, 64, 64, 3), np.uint8) for tag in list(embodiment.cameras)[: 1 + seed % 2]}
    observation = Observation(images=images, state=np.zeros(8, np.float32), instruction="push the cube " * (1 + seed))
    return Request(0, f"suite/p@1/task/base/{seed}/0", 0, seed, observation, embodiment, n_action_steps)


REQUESTS = [request(1), request(2, WIDOWX_BRIDGE, 4), request(3, LIBERO_PANDA, 16)]


@pytest.fixture
def policy() -> QwenVlaPolicy:
    policy = QwenVlaPolicy("tiny")
    torch.nn.init.normal_(policy.model.value_head.readout.weight)
    policy.record({})
    return policy


def recorded_by(policy: QwenVlaPolicy, requests: list[Request] = REQUESTS) -> list[Recorded]:
    return [reply.recorded for reply in policy.act(requests) if reply.recorded is not None]


def batch(policy: QwenVlaPolicy) -> RecordedBatch:
    return RecordedBatch.stack(recorded_by(policy), 64)


def parts_with_gradient(policy: QwenVlaPolicy) -> set[str]:
    named = policy.model.named_parameters()
    return {name.split(".")[0] for name, weight in named if weight.grad is not None and weight.grad.any()}


def test_with_recorded_states_the_gradient_reaches_the_expert_alone(policy: QwenVlaPolicy) -> None:
    evaluate(policy.model, batch(policy), SDE).log_probability.sum().backward()
    assert parts_with_gradient(policy) == {"expert"}


def test_with_inputs_the_gradient_reaches_the_backbone_too(policy: QwenVlaPolicy) -> None:
    recorded, inputs = batch(policy), policy.prepare(REQUESTS).inputs
    evaluate(policy.model, recorded, SDE, inputs).log_probability.sum().backward()
    assert parts_with_gradient(policy) == {"backbone", "expert"}


def test_the_gradient_of_the_value_reaches_the_value_head_alone(policy: QwenVlaPolicy) -> None:
    recorded, inputs = batch(policy), policy.prepare(REQUESTS).inputs
    evaluate(policy.model, recorded, SDE, inputs).value.square().sum().backward()
    assert parts_with_gradient(policy) == {"value_head"}


def test_an_update_moves_the_ratio_away_from_1(policy: QwenVlaPolicy) -> None:
    recorded = batch(policy)
    before = evaluate(policy.model, recorded, SDE)
    torch.testing.assert_close(before.log_probability, recorded.log_probability, atol=1e-4, rtol=0)
    torch.testing.assert_close(before.value, recorded.value, atol=1e-5, rtol=0)
    (-before.log_probability.sum()).backward()
    torch.optim.SGD(policy.model.expert.parameters(), lr=1e-4).step()
    with torch.no_grad():
        after = evaluate(policy.model, recorded, SDE)
    assert (after.log_probability > recorded.log_probability + 1e-3).all()  # it went up the gradient's hill
    assert torch.equal(after.value, before.value)


def test_recorded_states_and_inputs_give_the_same(policy: QwenVlaPolicy) -> None:
    recorded = batch(policy)
    with torch.no_grad():
        kept = evaluate(policy.model, recorded, SDE)
        again = evaluate(policy.model, recorded, SDE, policy.prepare(REQUESTS).inputs)
        others = [request(seed, each.embodiment, each.n_action_steps) for seed, each in zip((4, 5, 6), REQUESTS, strict=True)]
        elsewhere = evaluate(policy.model, recorded, SDE, policy.prepare(others).inputs)
    torch.testing.assert_close(again.log_probability, kept.log_probability, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.value, kept.value, atol=1e-5, rtol=0)
    assert ((elsewhere.log_probability - kept.log_probability).abs() > 1e-3).all()
    assert ((elsewhere.value - kept.value).abs() > 1e-4).all()


@pytest.mark.parametrize("precision", [{"dtype": "bfloat16"}, {"compute": "bfloat16"}])
def test_acting_and_updating_agree_in_bfloat16(precision: dict[str, str]) -> None:
    """One sample at a time, so that only the precision could differ: acting with weights of either kind, updating in float32 ones."""
    acting, updating = QwenVlaPolicy("tiny", **precision), QwenVlaPolicy("tiny", compute="bfloat16")
    acting.record({"sde": {"form": "score_all"}})
    for each in REQUESTS:
        recorded = RecordedBatch.stack(recorded_by(acting, [each]), 64)
        with torch.no_grad():
            found = evaluate(updating.model, recorded, Sde(form="score_all"))
        assert torch.equal(found.log_probability, recorded.log_probability)


def test_only_executed_steps_are_scored(policy: QwenVlaPolicy) -> None:
    recorded = batch(policy)
    assert recorded.mask.sum((1, 2)).tolist() == [16 * 7] * 3
    assert recorded.scored.sum((1, 2)).tolist() == [8 * 7, 4 * 7, 16 * 7]
    all_of_it = recorded_by(policy, [request(2, WIDOWX_BRIDGE, 16)])
    assert all_of_it[0].log_probability != recorded_by(policy, [REQUESTS[1]])[0].log_probability


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_episodes_last_chunk_is_scored_as_far_as_it_was_run(policy: QwenVlaPolicy, reduction: str) -> None:
    sde = Sde(form="score_all", reduction=reduction)
    policy.record({"sde": {"form": "score_all", "reduction": reduction}})
    whole, cut = recorded_by(policy, [request(2, WIDOWX_BRIDGE, 16)]), recorded_by(policy, [request(2, WIDOWX_BRIDGE, 5)])
    found = shortened(whole[0], 5, sde)
    assert found.log_probability == pytest.approx(cut[0].log_probability, rel=1e-6)
    again = evaluate(policy.model, RecordedBatch.stack([found], 64), sde).log_probability
    assert again.item() == pytest.approx(found.log_probability, rel=1e-5)
    with pytest.raises(PolicyError, match="17 steps of a chunk were run; expected 1 to 16"):
        shortened(whole[0], 17, sde)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_recorded_chunk_weighs_its_states_and_little_more(dtype: str, size: int) -> None:
    policy = QwenVlaPolicy("tiny", dtype=dtype)
    tokens = policy.model.encode(policy.prepare(REQUESTS[:1]).inputs).states.shape[1]
    for options, states in (({}, tokens * (32 * size + 3 * 8)), ({"states": False}, 0)):
        policy.record(options)
        for one in (recorded_by(policy, REQUESTS[:1])[0], recorded_by(policy)[0]):
            assert sum(array.nbytes for array in one.arrays.values()) == states + 2 * 4 * 16 * 7 + 4 * 16 + 8 + 8
            for name, array in one.arrays.items():  # and keeps nothing of its batch alive
                assert array.base is None, name


def test_what_was_recorded_crosses_process_borders_to_the_bit() -> None:
    policy = QwenVlaPolicy("tiny", dtype="bfloat16")
    policy.record({})
    replies = policy.act(REQUESTS)
    travelled: list[Any] = [decode(encode(PackedReply(reply))) for reply in replies]
    here = RecordedBatch.stack([reply.recorded for reply in replies if reply.recorded], 64)
    there = RecordedBatch.stack([packed.reply.recorded for packed in travelled], 64)
    assert here.context is not None
    assert there.context is not None
    assert here.context.states.dtype == torch.bfloat16
    assert torch.equal(here.context.states, there.context.states)
    assert torch.equal(here.context.valid, there.context.valid)
    assert torch.equal(here.steps.after, there.steps.after)
    assert torch.equal(here.log_probability, there.log_probability)


def test_a_batch_moves_as_a_whole(policy: QwenVlaPolicy) -> None:
    moved = batch(policy).to("meta")
    assert len(moved) == 3
    assert moved.context is not None
    for tensor in (moved.value, moved.steps.before, moved.scored, moved.context.states, moved.context.positions):
        assert tensor.device.type == "meta"


def test_nothing_cannot_be_stacked() -> None:
    with pytest.raises(PolicyError, match="no recorded answers to put together"):
        RecordedBatch.stack([], 64)
