"""The counted operations of a Qwen-VLA, which measured speeds are compared with: torch's own count, and known figures of full size."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vlarig.policies.qwen_vla.backbone import BackboneInputs, positions_of
from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.vision import image_features, image_grids, patchify

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "speed"
IMAGE, START, END = 6, 3, 4
TINY = PRESETS["tiny"]()
SIZES = (("seven", 7), ("three", 3))
CONFIGS = {
    "tiny": TINY,
    "small": PRESETS["small"](),
    "multi_mlp": dataclasses.replace(TINY, projection="multi_mlp", projection_embodiments=SIZES),
    "concat, state": dataclasses.replace(TINY, projection="concat", projection_embodiments=SIZES, state="dit", state_size=8),
}


@pytest.fixture
def flops(monkeypatch):
    """The module, which stands beside the scripts that use it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import qwen_vla_flops

    return qwen_vla_flops


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(work):
    """Torch's count, with what it leaves out on a CPU: attention, of a causal one the seen half, and triangular solutions."""

    def attention(query, key, value, _dropout=0.0, causal=False, *, out_shape=None, **_):
        whole = sdpa_flop_count(query, key, value)
        return whole * (query[2] + 1) // (2 * query[2]) if causal else whole

    def triangular(system, right, *_, out_shape=None, **__):
        return math.prod(right) * system[-1]

    operators = torch.ops.aten
    others = {
        operators._scaled_dot_product_flash_attention_for_cpu: attention,
        operators.linalg_solve_triangular: triangular,
    }
    with FlopCounterMode(display=False, custom_mapping=others) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def prompt(config, tokens, batch):
    """A batch of prompts of that length with two pictures each."""
    rng = np.random.default_rng(0)
    block = [START, *[IMAGE] * config.image_tokens(), END] * 2
    ids = torch.tensor([block + rng.integers(8, 1024, tokens - len(block)).tolist() for _ in range(batch)])
    images = torch.from_numpy(rng.integers(0, 256, (2 * batch, *config.image_size, 3), dtype=np.uint8))
    valid, grids = torch.ones_like(ids, dtype=torch.bool), image_grids(2 * batch, *config.image_size)
    return BackboneInputs(ids, valid, positions_of(ids, valid, grids, IMAGE), patchify(images), grids)


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_are_those_of_torch(flops, name):
    """The language model's within 0.5 %, since its short convolution is padded by three tokens; the others exactly."""
    config, tokens, batch = CONFIGS[name], 128, 2  # whole pieces of the delta rule: nothing is padded
    model, inputs = build(config), prompt(config, 128, 2)
    mask = torch.ones(batch, config.horizon, config.channels, dtype=torch.bool)
    kind = None if config.projection == "zero_pad" else torch.zeros(batch, dtype=torch.int64)
    state = torch.zeros(batch, config.state_size) if config.state == "dit" else None
    expected = flops.count(config, tokens, images=2)

    vision = counted(lambda: image_features(model.backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw))
    assert vision == batch * expected.vision
    with torch.no_grad():
        context = model.encode(inputs)
    language = counted(lambda: model.encode(inputs)) - vision
    assert batch * expected.language == pytest.approx(language, rel=0.005)
    assert counted(lambda: model.condition(context, mask, kind, state)) == batch * expected.condition
    with torch.no_grad():
        field = model.velocity_field(context, mask, kind, state)
    step = counted(lambda: field(torch.zeros(mask.shape), torch.ones(batch)))
    assert step == batch * expected.step


def test_short_pieces_of_the_delta_rule_cost_less_than_padded_ones(flops):
    whole, part = (flops.count(CONFIGS["small"], tokens, images=1).language for tokens in (128, 127))
    assert 0.98 < part / whole < 127 / 128


def test_full_size(flops):
    """A 224 x 224 picture and 60 tokens of text, reckoned by hand from the published sizes."""
    full = flops.count(PRESETS["4b"](), tokens=111, images=1)
    assert round(full.vision / 1e9) == 125
    assert round(full.language / 1e9) == 807
    assert round((full.condition + full.step) / 1e9) == 233
    assert full.backbone == full.vision + full.language
    assert full.chunk(4) == full.backbone + full.condition + 4 * full.step
    assert 128 * full.training(0) / 1e12 == pytest.approx(89.5, abs=0.1)
    assert 128 * full.training(3) / 1e12 == pytest.approx(447.5, abs=0.1)


def test_weights_of_full_size(flops):
    """Gigabytes that a chunk reads in bfloat16: the backbone's 3.90B weights once, the expert's 1.15B in each step."""
    model = build(PRESETS["4b"](), device="meta", dtype=torch.bfloat16)
    once = flops.weight_bytes(model, 0)
    assert once / 1e9 == pytest.approx(7.81, abs=0.01)
    assert (flops.weight_bytes(model, 4) - once) / 4e9 == pytest.approx(2.31, abs=0.01)
