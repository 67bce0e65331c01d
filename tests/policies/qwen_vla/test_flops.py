"""The operations that speeds of a Qwen-VLA are compared with, as the speed script counts them: against sums by hand, on small sizes."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vlarig.policies.qwen_vla.config import PRESETS

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "speed"
TINY = PRESETS["tiny"]()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import qwen_vla

    yield qwen_vla
    for name in ("qwen_vla", "spread"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def subject(script):
    return script.Subject(script.Options("tiny"), torch.device("cpu"), torch.float32)


def step_by_hand(tokens):
    """One pass of the expert over the prompt and the chunk, without a state token: two for each multiplication with its addition."""
    expert, width = TINY.expert, TINY.expert.width
    length = tokens + TINY.horizon
    block = 2 * length * (4 * width**2 + 3 * width * expert.mlp_width) + 4 * length**2 * width + 2 * 6 * width**2
    time = 2 * (expert.time_features * width + width**2) + 2 * 2 * width**2
    actions = 2 * 2 * TINY.horizon * (TINY.channels * width + width**2)  # in and out
    return expert.blocks * block + time + actions


def test_products_attention_and_the_backward_pass_are_counted(script):
    left, right = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert script.operations(lambda: left @ right) == 2 * 3 * 5 * 7
    assert script.operations(lambda: (left @ right).sum().backward()) == 3 * 2 * 3 * 5 * 7
    query, key = torch.ones(1, 2, 11, 8), torch.ones(1, 2, 13, 8)
    assert script.operations(lambda: scaled_dot_product_attention(query, key, key)) == 2 * 2 * 2 * 11 * 13 * 8


def test_parts_of_a_chunk(script, subject):
    """An Euler step by hand; the parts add up to the chunk; two samples take twice as much."""
    one, two = ({part.name.strip(): part.flops for part in subject.parts(size)} for size in (1, 2))
    tokens = subject.batch(1).inputs.input_ids.shape[1]
    assert one["Euler step"] == step_by_hand(tokens)
    assert one["conditioning"] == 2 * tokens * TINY.text["hidden_size"] * TINY.expert.width
    assert one["inputs"] == 0
    assert one["backbone"] == one["vision"] + one["language model"]
    assert one["chunk"] == one["backbone"] + one["conditioning"] + one["4 Euler steps"]
    assert one["10 Euler steps"] == 10 * one["Euler step"]
    assert two == {name: 2 * flops for name, flops in one.items()}


def test_training_takes_three_passes_and_checkpointing_a_fourth(script):
    def step(**how):
        subject = script.Subject(script.Options("tiny"), torch.device("cpu"), torch.float32)
        forward = {part.name.strip(): part.flops for part in subject.parts(2)}
        return forward, subject.step(script.Training("tiny", batch=4, micro_batch=2), torch.float32, **how)[0].flops / 2

    forward, expert = step(whole=False, checkpointed=False)
    ahead = forward["conditioning"] + forward["Euler step"]
    assert expert == pytest.approx(3 * ahead, rel=0.05)  # no gradient reaches the context and the noisy actions
    _, everything = step(whole=True, checkpointed=False)
    assert everything == pytest.approx(3 * (ahead + forward["backbone"]), rel=0.05)
    _, checkpointed = step(whole=True, checkpointed=True)
    assert checkpointed - everything == pytest.approx(forward["language model"], rel=0.15)
