"""The operations that speeds of a Qwen-VLA are compared with, as the speed script counts them: against sums by hand, on small sizes."""

import pytest
import torch
from speed_scripts import speed_scripts
from torch.nn.functional import conv1d, scaled_dot_product_attention

from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import PRESETS

TINY = PRESETS["tiny"]()


@pytest.fixture
def script():
    with speed_scripts("chunks") as (chunks,):
        yield chunks


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def subject(script, request):
    return script.Subject(script.Acting("tiny"), torch.device("cpu"), request.param)


def step_by_hand(tokens):
    """One pass of the expert over the prompt and the chunk, without a state token: two for each multiplication with its addition."""
    prompt = 2 * tokens * TINY.text["hidden_size"] * TINY.expert.width
    expert, width = TINY.expert, TINY.expert.width
    length = tokens + TINY.horizon

    def block(read):
        """Queries, keys and values of all tokens; what is mixed and the SwiGLU of those that are read of the result."""
        products = 2 * length * 3 * width**2 + 2 * read * (width**2 + 3 * width * expert.mlp_width)
        return products + 4 * read * length * width + 2 * 6 * width**2

    time = 2 * (expert.time_features * width + width**2) + 2 * 2 * width**2
    actions = 2 * 2 * TINY.horizon * (TINY.channels * width + width**2)  # in and out
    return prompt + (expert.blocks - 1) * block(length) + block(TINY.horizon) + time + actions


def test_products_attention_and_the_backward_pass_are_counted(script):
    model = build(TINY)
    left, right = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert script.operations(lambda: left @ right, model) == 2 * 3 * 5 * 7
    assert script.operations(lambda: (left @ right).sum().backward(), model) == 3 * 2 * 3 * 5 * 7
    query, key = torch.ones(1, 2, 11, 8), torch.ones(1, 2, 13, 8)
    assert script.operations(lambda: scaled_dot_product_attention(query, key, key), model) == 2 * 2 * 2 * 11 * 13 * 8
    states, kernels = torch.ones(1, 6, 11, requires_grad=True), torch.ones(6, 1, 4, requires_grad=True)  # each channel alone
    assert script.operations(lambda: conv1d(states, kernels, groups=6).sum().backward(), model) == 3 * 2 * 6 * 4 * (11 - 3)


def test_parts_of_a_chunk(script, subject):
    """An Euler step by hand; the parts add up to the chunk; two samples take twice as much."""
    one, two = ({part.name.strip(): part.flops for part in subject.parts(size)} for size in (1, 2))
    tokens = subject.batch(1).inputs.input_ids.shape[1]
    assert one["Euler step"] == step_by_hand(tokens)
    assert one["inputs"] == 0
    assert one["backbone"] == one["vision"] + one["language model"]
    assert one["chunk"] == one["backbone"] + one["4 Euler steps"]
    assert one["10 Euler steps"] == 10 * one["Euler step"]
    assert two == {name: 2 * flops for name, flops in one.items()}


def test_a_part_reads_the_tokens_that_the_chunk_reads(script):
    """The shipped size keeps some of an image's tokens."""
    subject = script.Subject(script.Acting("small"), torch.device("cpu"), torch.bfloat16)
    found = {part.name.strip(): part.flops for part in subject.parts(1)}
    assert found["backbone"] == pytest.approx(found["vision"] + found["language model"], rel=1e-3)
    assert found["chunk"] == found["backbone"] + found["4 Euler steps"]
