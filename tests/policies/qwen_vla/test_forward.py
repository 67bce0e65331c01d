"""The losses of a batch: action samples and conversations, alone and mixed, whole and in pieces."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from demonstrations import Mixed

from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.flow import SigmoidNormal, interpolate, target_velocity
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.losses import sample_losses
from vlarig.policies.qwen_vla.model import Chunks, Losses, QwenVla
from vlarig.training.batches import Collator, MicroBatch

STREAM = Mixed()
BUNDLE = load("tiny")
COLLATOR = Collator(InputBuilder(BUNDLE.description.config, BUNDLE.tokenizer), STREAM.statistics, SigmoidNormal(), seed=0)


@pytest.fixture
def model() -> QwenVla:
    return load("tiny", seed=1).model.train()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(*positions: int) -> MicroBatch:
    return COLLATOR([(position, STREAM[position]) for position in positions])


def gradients(model: QwenVla, losses: Losses) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (losses.action.sum + losses.language.sum).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_a_mixed_batch_has_the_losses_and_gradients_of_its_parts(model: QwenVla) -> None:
    whole = model(batch(0, 5, 1, 6, 2, 7).batch)
    together = gradients(model, whole)
    parts = [model(batch(0, 1, 2).batch), model(batch(5, 6, 7).batch)]
    torch.testing.assert_close(whole.action.sum, parts[0].action.sum)
    torch.testing.assert_close(whole.language.sum, parts[1].language.sum)
    assert (whole.action.count, parts[1].action.count) == (3, 0)
    assert whole.language.count == parts[1].language.count == batch(5, 6, 7).tokens > 10
    assert parts[0].language.count == 0
    apart = [gradients(model, each) for each in parts]
    for name, gradient in together.items():
        expected = sum((each[name] for each in apart if name in each), torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_action_loss_is_equation_2_of_the_expert_alone(model: QwenVla) -> None:
    given = batch(5, 0, 3).batch
    chunks = given.chunks
    assert chunks is not None
    assert chunks.samples.tolist() == [1, 2]  # the conversation has none
    seen = []
    hook = model.expert.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    losses = model(given)
    hook.remove()
    assert seen == [2]
    context = model.encode(given.inputs).of(chunks.samples)
    velocity = model.velocity(interpolate(chunks.clean, chunks.noise, chunks.time), chunks.time, context, chunks.mask)
    expected = sample_losses(velocity, target_velocity(chunks.clean, chunks.noise), chunks.mask)
    torch.testing.assert_close(losses.each, expected.detach())
    torch.testing.assert_close(losses.action.mean, expected.mean())
    assert not losses.each.requires_grad


def test_the_language_loss_is_transformers_own(model: QwenVla) -> None:
    given = batch(5)
    inputs = given.batch.inputs
    labels = torch.full((inputs.input_ids.numel(),), -100)
    assert inputs.labelled is not None
    assert inputs.targets is not None
    labels[inputs.labelled + 1] = inputs.targets
    theirs = model.backbone(
        input_ids=inputs.input_ids,
        pixel_values=inputs.pixel_values,
        image_grid_thw=inputs.image_grid_thw,
        mm_token_type_ids=(inputs.input_ids == model.backbone.config.image_token_id).int(),
        labels=labels[None],
    ).loss
    losses = model(given.batch)
    torch.testing.assert_close(losses.language.mean, theirs, rtol=1e-5, atol=1e-5)


def test_every_part_runs_where_asked_and_changes_nothing(model: QwenVla) -> None:
    """Words alone need neither the vision tower nor the expert; processes that share weights run both all the same."""
    given = batch(6, 7).batch
    plain = model(given)
    alone = gradients(model, plain)
    assert {name.split(".")[0] for name in alone} == {"backbone"}
    assert not any("visual" in name for name in alone)
    model.every_part = True
    losses = model(given)
    everything = gradients(model, losses)
    assert losses.language.sum == plain.language.sum
    assert losses.action.sum == losses.action.count == 0
    assert losses.each.shape == (0,)
    assert {name.split(".")[0] for name in everything} == {"backbone", "expert"}
    assert any("visual" in name for name in everything)
    for name, gradient in everything.items():
        if name in alone:
            torch.testing.assert_close(gradient, alone[name])
        else:
            assert not gradient.any(), name


def test_frozen_parts_get_no_gradient(model: QwenVla) -> None:
    model.freeze("vision", "language", "value_head")
    assert {name.split(".")[0] for name in gradients(model, model(batch(0, 1).batch))} == {"expert"}
    model.freeze("expert")
    found = gradients(model, model(batch(0, 1).batch))
    assert {name.split(".")[0] for name in found} == {"backbone"}
    with pytest.raises(Exception, match="the model has no part 'head', expected one of vision, language, expert, value_head"):
        model.freeze("head")


def test_a_batch_moves_as_a_whole_but_for_the_grids() -> None:
    moved = batch(0, 5).batch.to("meta")
    assert moved.chunks is not None
    tensors = [
        value for part in (moved.inputs, moved.chunks) for value in vars(part).values() if isinstance(value, torch.Tensor)
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta", "cpu"}
    assert [name for name, value in vars(moved.inputs).items() if getattr(value, "is_cpu", False)] == ["image_grid_thw"]


def test_noise_and_time_follow_from_position_and_seed_alone() -> None:
    together, alone = batch(0, 1, 2).batch.chunks, batch(1).batch.chunks
    assert together is not None
    assert alone is not None
    steps = int(alone.mask[0].any(1).sum())
    np.testing.assert_array_equal(together.noise[1, :steps], alone.noise[0, :steps])
    assert together.time[1] == alone.time[0]
    other = dataclasses.replace(alone)
    reseeded = Collator(InputBuilder(BUNDLE.description.config, BUNDLE.tokenizer), STREAM.statistics, SigmoidNormal(), seed=1)(
        [(1, STREAM[1])]
    )
    assert reseeded.batch.chunks is not None
    assert not torch.equal(reseeded.batch.chunks.noise, other.noise)


def test_several_draws_of_a_chunk_share_its_prompt(model: QwenVla) -> None:
    thrice = Collator(
        InputBuilder(BUNDLE.description.config, BUNDLE.tokenizer), STREAM.statistics, SigmoidNormal(), seed=0, draws=3
    )([(position, STREAM[position]) for position in (0, 5, 1)])
    once, many = batch(0, 5, 1), thrice.batch.chunks
    assert once.batch.chunks is not None
    assert many is not None
    torch.testing.assert_close(thrice.batch.inputs.input_ids, once.batch.inputs.input_ids)
    assert many.samples.tolist() == [0, 0, 0, 2, 2, 2]
    assert thrice.chunk_names == ("random/0",) * 3 + ("random/1",) * 3
    assert len({float(time) for time in many.time}) == 6
    np.testing.assert_array_equal(many.noise[[0, 3]], once.batch.chunks.noise)  # more draws change no other
    assert not torch.equal(many.noise[0], many.noise[1])
    losses = model(thrice.batch)
    assert (losses.action.count, len(losses.each)) == (6, 6)
    parts = [model(dataclasses.replace(thrice.batch, chunks=chosen(many, index))).action.sum for index in range(6)]
    torch.testing.assert_close(losses.action.sum, sum(parts))


def chosen(chunks: Chunks, index: int) -> Chunks:
    """One of them."""
    return Chunks(**{name: value if value is None else value[index : index + 1] for name, value in vars(chunks).items()})
