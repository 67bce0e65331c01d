"""The vision-language loss: transformers' own, gradients too, and never all logits at once."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlarig.policies.qwen_vla.backbone import hidden_states
from vlarig.policies.qwen_vla.conversation import Conversation, Limits, Still, Turn, Video
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted
from vlarig.policies.qwen_vla.losses import language_loss
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer, token_ids

CONFIG = PRESETS["tiny"]()
TOKENIZER = small_tokenizer()
TOKENS = token_ids(TOKENIZER)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 40, 70, 3), np.uint8)

SAMPLES = [
    Prompted("wave.", (("ego", PIXELS[0]),)),
    Conversation((Turn("user", (Still(PIXELS[1]), "What is this?")), Turn("assistant", ("A red cube on a table.",)))),
    Conversation(
        (
            Turn("system", ("Answer in one word.",)),
            Turn("user", (Video(PIXELS[:3], (0.0, 0.5, 1.0)), "What moves?")),
            Turn("assistant", ("Nothing",)),
            Turn("user", ("Sure?",)),
            Turn("assistant", ("Yes",)),
        )
    ),
]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)), 0)
        return result


@pytest.fixture(scope="module")
def backbone():
    return build(CONFIG, seed=0).backbone


@pytest.mark.parametrize("piece", [3, 1024])
def test_loss_and_gradients_are_transformers_own(backbone, piece):
    inputs = InputBuilder(CONFIG, TOKENIZER, Limits(min_pixels=1024, max_pixels=4096)).build(SAMPLES)
    mine, theirs = copy.deepcopy(backbone), copy.deepcopy(backbone)
    total, count = language_loss(hidden_states(mine, inputs), mine.lm_head.weight, inputs.labelled, inputs.targets, piece)
    (total / count).backward()

    labels = torch.full_like(inputs.input_ids, -100)
    labels.view(-1)[inputs.labelled + 1] = inputs.targets  # transformers shifts them itself
    images = inputs.input_ids == TOKENS.image_pad
    lengths = inputs.image_grid_thw.prod(dim=1).tolist()
    patches = inputs.pixel_values.split(lengths)
    expected = theirs(
        input_ids=inputs.input_ids,
        attention_mask=inputs.valid.long(),
        pixel_values=torch.cat(patches[:2]),
        image_grid_thw=inputs.image_grid_thw[:2],
        pixel_values_videos=torch.cat(patches[2:]),
        video_grid_thw=torch.tensor([[2, *inputs.image_grid_thw[2, 1:].tolist()]]),
        mm_token_type_ids=(images + 2 * (inputs.input_ids == TOKENS.video_pad)).int(),
        labels=labels,
        use_cache=False,
    ).loss
    expected.backward()
    torch.testing.assert_close(total / count, expected, rtol=1e-6, atol=1e-6)
    others = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(
            parameter.grad, others[name].grad, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_logits_exist_for_one_piece_at_a_time():
    states = torch.randn(2, 200, 8, requires_grad=True)
    weight = torch.randn(5000, 8, requires_grad=True)
    labelled, targets = torch.arange(0, 400, 2), torch.arange(200)
    kept: list[int] = []
    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            total, count = language_loss(states, weight, labelled, targets, piece=16)
        total.backward()
    assert count == 200
    assert max(kept, default=0) <= weight.numel() < 16 * 5000  # no logits wait for the backward pass
    assert seen.elements == 16 * 5000
    expected = torch.nn.functional.cross_entropy(states.flatten(0, 1)[labelled] @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(total, expected)


def test_weights_in_bfloat16_give_a_loss_in_float32():
    states, weight = torch.randn(1, 9, 16), torch.randn(50, 16)
    labelled, targets = torch.arange(9), torch.arange(9)
    exact, _ = language_loss(states, weight, labelled, targets)
    rough, _ = language_loss(states.bfloat16(), weight.bfloat16(), labelled, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0)


def test_nothing_to_learn_is_a_loss_of_zero_with_gradients():
    states, weight = torch.randn(1, 5, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    total, count = language_loss(states, weight, none, none)
    total.backward()
    assert (total.item(), count) == (0.0, 0)
    assert not states.grad.any()
    assert not weight.grad.any()
