"""The backbone: its inputs, positions and images against transformers' own, loading, and that padding changes nothing."""

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil, Qwen3_5ForConditionalGeneration

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.backbone import (
    BackboneInputs,
    hidden_states,
    load_backbone,
    make_backbone,
    positions_of,
    read_backbone_config,
)
from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.vision import image_features, image_grids, patchify

IMAGE, START, END = 6, 3, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone():
    return build(PRESETS["tiny"](), seed=0).backbone


def batch(samples, pad_to=0):
    """Inputs of samples, each a list of texts (a number of tokens) and images ((rows, columns) of patches)."""
    rng = np.random.default_rng(0)
    rows, grids = [], []
    for sample in samples:
        row = []
        for piece in sample:
            if isinstance(piece, tuple):
                grids.append([1, *piece])
                row += [START, *[IMAGE] * (piece[0] * piece[1] // 4), END]
            else:
                row += rng.integers(8, 1024, piece).tolist()
        rows.append(row)
    length = max(pad_to, *(len(row) for row in rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    valid = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    grid = torch.tensor(grids) if grids else None
    pixels = None
    if grids:
        patches = [rng.integers(0, 256, (1, 16 * h, 16 * w, 3), dtype=np.uint8) for _, h, w in grids]
        pixels = torch.cat([patchify(torch.from_numpy(image)) for image in patches])
    return BackboneInputs(ids, valid, positions_of(ids, valid, grid, IMAGE), pixels, grid)


BATCHES = {
    "text": [[5], [9]],
    "one image": [[3, (4, 4), 5]],
    "image first and last": [[(4, 4), 5], [5, (4, 4)], [(4, 4)]],
    "sizes and numbers": [[3, (4, 6), 5, (6, 2), 1], [20], [(2, 2), (8, 4), 2, (2, 2), 30], [1, (2, 12)]],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("pad_to", [0, 70])
def test_positions_are_transformers_own(backbone, name, pad_to):
    inputs = batch(BATCHES[name], pad_to)
    kinds = (inputs.input_ids == IMAGE).int()
    expected, _ = backbone.model.get_rope_index(
        inputs.input_ids, kinds, image_grid_thw=inputs.image_grid_thw, attention_mask=inputs.valid.long()
    )
    assert torch.equal(inputs.positions, expected)


def test_positions_of_random_batches_are_transformers_own(backbone):
    rng = np.random.default_rng(1)
    for _ in range(25):
        samples = [
            [
                int(rng.integers(1, 9)) if rng.random() < 0.5 else tuple((2 * rng.integers(1, 5, 2)).tolist())
                for _ in range(rng.integers(1, 7))
            ]
            for _ in range(rng.integers(1, 6))
        ]
        inputs = batch(samples)
        kinds = (inputs.input_ids == IMAGE).int()
        expected, _ = backbone.model.get_rope_index(
            inputs.input_ids, kinds, image_grid_thw=inputs.image_grid_thw, attention_mask=inputs.valid.long()
        )
        assert torch.equal(inputs.positions, expected), samples


@pytest.mark.parametrize("grids", [[[1, 4, 4]], [[1, 4, 4], [1, 4, 6]], [[1, 4, 6], [1, 4, 4], [1, 4, 4]]])
def test_images_that_are_not_those_of_the_prompt_are_refused(grids):
    inputs = batch([[3, (4, 6), 5, (4, 4)]])
    with pytest.raises(PolicyError, match=r"images of \[6, 4\] tokens"):
        positions_of(inputs.input_ids, inputs.valid, torch.tensor(grids), IMAGE)


@pytest.mark.parametrize("size", [(128, 128), (64, 224)])
def test_patches_are_the_image_processor_s(size):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        min_pixels=32 * 32,
        max_pixels=512 * 512,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    expected = processor(images=list(images), return_tensors="pt")
    mine = patchify(torch.from_numpy(images))
    assert (mine - expected["pixel_values"]).abs().max().item() == 0.0
    assert torch.equal(image_grids(3, *size), expected["image_grid_thw"])


def test_images_of_another_type_or_size_are_refused():
    with pytest.raises(PolicyError, match=r"float32\[1, 64, 64, 3\], expected uint8"):
        patchify(torch.zeros(1, 64, 64, 3))
    with pytest.raises(PolicyError, match="multiples of 32"):
        patchify(torch.zeros(1, 64, 60, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["one image", "image first and last", "sizes and numbers"])
def test_vision_tower_gives_what_transformers_gives(backbone, name):
    inputs = batch(BATCHES[name])
    with torch.no_grad():
        expected = backbone.model.visual(inputs.pixel_values, grid_thw=inputs.image_grid_thw).pooler_output
        mine = image_features(backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw)
    assert expected.std() > 1e-3
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_vision_gradients_are_the_same_with_checkpointing(backbone):
    inputs = batch([[(4, 4), (4, 4)]])
    visual = backbone.model.visual
    found = []
    for on in (False, True):
        visual.train()
        if on:
            visual.blocks[0].gradient_checkpointing = True
        visual.zero_grad()
        image_features(visual, inputs.pixel_values, inputs.image_grid_thw).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in visual.parameters()])
        visual.blocks[0].gradient_checkpointing = False
    visual.eval()
    visual.zero_grad()
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_patches_that_do_not_fit_the_grids_are_refused(backbone):
    inputs = batch([[(4, 4)]])
    with pytest.raises(PolicyError, match="do not fit 16 patches"):
        image_features(backbone.model.visual, inputs.pixel_values, torch.tensor([[1, 4, 6]]))


@pytest.mark.parametrize("name", BATCHES)
def test_hidden_states_are_transformers_own(backbone, name):
    inputs = batch(BATCHES[name], pad_to=70)
    with torch.no_grad():
        expected = backbone.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.valid.long(),
            pixel_values=inputs.pixel_values,
            image_grid_thw=inputs.image_grid_thw,
            mm_token_type_ids=(inputs.input_ids == IMAGE).int(),
            use_cache=False,
        ).last_hidden_state
        mine = hidden_states(backbone, inputs)
    torch.testing.assert_close(mine[inputs.valid], expected[inputs.valid], rtol=1e-4, atol=1e-5)
    assert (mine[~inputs.valid] == 0).all()


def test_values_in_the_padding_change_nothing(backbone):
    inputs = batch([[3, (4, 4), 5], [30]], pad_to=40)
    other_ids = torch.where(inputs.valid, inputs.input_ids, IMAGE)
    assert torch.equal(positions_of(other_ids, inputs.valid, inputs.image_grid_thw, IMAGE), inputs.positions)
    with torch.no_grad():
        first = hidden_states(backbone, inputs)
        second = hidden_states(
            backbone, BackboneInputs(other_ids, inputs.valid, inputs.positions, inputs.pixel_values, inputs.image_grid_thw)
        )
    assert torch.equal(first, second)


def test_no_state_is_left_behind_in_the_module(backbone):
    backbone.model.rope_deltas = None
    text = batch([[9]])
    with torch.no_grad():
        alone = hidden_states(backbone, text)
        hidden_states(backbone, batch([[3, (8, 8), 5]]))
        assert backbone.model.rope_deltas is None
        assert torch.equal(hidden_states(backbone, text), alone)


def test_a_local_directory_gives_its_weights_and_configuration(backbone, tmp_path):
    backbone.save_pretrained(tmp_path)
    assert read_backbone_config(tmp_path) == PRESETS["tiny"]().backbone
    loaded = load_backbone(tmp_path, backbone=PRESETS["tiny"]().backbone)
    assert isinstance(loaded, Qwen3_5ForConditionalGeneration)
    for name, weights in backbone.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name
    half = load_backbone(tmp_path, dtype=torch.bfloat16)
    assert half.model.language_model.embed_tokens.weight.dtype == torch.bfloat16
    with pytest.raises(PolicyError, match=r"has vocab_size 1024 in its text_config, this model expects 512"):
        load_backbone(tmp_path, backbone=PRESETS["tiny"](512).backbone)


def test_a_model_takes_a_trained_backbone_and_the_seed_s_expert(tmp_path):
    config = PRESETS["tiny"]()
    build(config, seed=5).backbone.save_pretrained(tmp_path)
    model, own, five = build(config, seed=0, backbone=tmp_path), build(config, seed=0), build(config, seed=5)
    for name, weights in model.state_dict().items():
        source = five if name.startswith("backbone.") else own
        assert torch.equal(weights, source.state_dict()[name]), name


def test_what_cannot_be_loaded_is_one_sentence(tmp_path, backbone):
    for load in (load_backbone, read_backbone_config):
        with pytest.raises(PolicyError, match=r"can be loaded from .*give a local directory") as caught:
            load(tmp_path / "missing")
        assert "\n" not in str(caught.value)
    backbone.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(PolicyError, match="no backbone can be loaded") as caught:
        load_backbone(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(tmp_path, backbone):
    state = {
        name: weights for name, weights in backbone.state_dict().items() if "layers.0.mlp" not in name and "lm_head" not in name
    }
    backbone.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(PolicyError, match="lacks 3 weights"):
        load_backbone(tmp_path)


def test_a_backbone_has_the_configured_layers():
    with torch.device("meta"):
        made = make_backbone(PRESETS["small"]().backbone)
    kinds = ["linear" if hasattr(layer, "linear_attn") else "full" for layer in made.model.language_model.layers]
    assert kinds == ["linear", "full", "linear", "full"]
