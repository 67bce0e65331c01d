"""The backbone: its inputs, positions and images against transformers' own, loading, and that padding changes nothing."""

import copy

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.vision import image_features, patchify

IMAGE, VIDEO, START, END = 6, 7, 3, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone():
    return build(PRESETS["tiny"](), seed=0).backbone


@pytest.fixture(scope="module")
def reference(backbone):
    """The same weights with transformers' own attention, one call for each image."""
    other = copy.deepcopy(backbone)
    other.set_attn_implementation("sdpa")
    return other


def batch(samples, pad_to=0):
    """Inputs of samples: each a list of texts (a number of tokens), images ((rows, columns) of patches) and videos (patches before)."""
    rng = np.random.default_rng(0)
    rows, grids, pixels = [], [], []
    for sample in samples:
        row = []
        for piece in sample:
            if not isinstance(piece, tuple):
                row += rng.integers(8, 1024, piece).tolist()
                continue
            *patches, height, width = piece
            for _ in range(*patches or [1]):
                grids.append([1, height, width])
                frames = rng.integers(0, 256, (1, 2 if patches else 1, 16 * height, 16 * width, 3), dtype=np.uint8)
                pixels.append(patchify(torch.from_numpy(frames)))
                row += [9] * bool(patches) + [START, *[VIDEO if patches else IMAGE] * (height * width // 4), END]
        rows.append(row)
    length = max(pad_to, *(len(row) for row in rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    valid = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    grid = torch.tensor(grids) if grids else None
    return BackboneInputs(ids, valid, positions_of(ids, valid, grid, IMAGE, VIDEO), torch.cat(pixels) if pixels else None, grid)


def upstream(samples, inputs):
    """What transformers takes for the same batch: images and videos apart, a video with one grid of all its patches."""
    seen = [piece for sample in samples for piece in sample if isinstance(piece, tuple)]
    images = torch.tensor([[1, *piece] for piece in seen if len(piece) == 2])
    videos = torch.tensor([piece for piece in seen if len(piece) == 3])
    given = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.valid.long(),
        "mm_token_type_ids": ((inputs.input_ids == IMAGE) + 2 * (inputs.input_ids == VIDEO)).int(),
        "image_grid_thw": images if len(images) else None,
        "video_grid_thw": videos if len(videos) else None,
    }
    if seen:
        lengths = [int(np.prod(piece)) for piece in seen]
        parts = list(zip(inputs.pixel_values.split(lengths), seen, strict=True))
        for name, axes in (("pixel_values", 2), ("pixel_values_videos", 3)):
            chosen = [part for part, piece in parts if len(piece) == axes]
            given[name] = torch.cat(chosen) if chosen else None
    return given


BATCHES = {
    "text": [[5], [9]],
    "one image": [[3, (4, 4), 5]],
    "image first and last": [[(4, 4), 5], [5, (4, 4)], [(4, 4)]],
    "sizes and numbers": [[3, (4, 6), 5, (6, 2), 1], [20], [(2, 2), (8, 4), 2, (2, 2), 30], [1, (2, 12)]],
    "videos": [[3, (3, 4, 6), 5], [(4, 4), 2, (2, 4, 6), (6, 4), 3], [7], [(1, 2, 2), (1, 8, 2)]],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("pad_to", [0, 70])
def test_positions_are_transformers_own(backbone, name, pad_to):
    inputs = batch(BATCHES[name], pad_to)
    assert torch.equal(inputs.positions, expected_positions(backbone, BATCHES[name], inputs))


def expected_positions(backbone, samples, inputs):
    given = upstream(samples, inputs)
    kinds = given.pop("mm_token_type_ids")
    return backbone.model.get_rope_index(mm_token_type_ids=kinds, **given)[0]


def random_samples(rng):
    """Text, images and videos of several sizes in any order."""

    def piece():
        kind = rng.integers(3)
        if kind == 0:
            return int(rng.integers(1, 9))
        return (*rng.integers(1, 4, kind - 1).tolist(), *(2 * rng.integers(1, 5, 2)).tolist())

    return [[piece() for _ in range(rng.integers(1, 7))] for _ in range(rng.integers(1, 6))]


def test_positions_of_random_batches_are_transformers_own(backbone):
    rng = np.random.default_rng(1)
    for _ in range(40):
        samples = random_samples(rng)
        inputs = batch(samples)
        assert torch.equal(inputs.positions, expected_positions(backbone, samples, inputs)), samples


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


def test_the_two_frames_of_a_temporal_patch_are_both_seen():
    first, second = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8))
    both = patchify(torch.stack([first, second])[None]).unflatten(1, (3, 2, 256))
    assert torch.equal(both[:, :, 0], patchify(first[None]).unflatten(1, (3, 2, 256))[:, :, 0])
    assert torch.equal(both[:, :, 1], patchify(second[None]).unflatten(1, (3, 2, 256))[:, :, 1])


@pytest.mark.parametrize("name", ["one image", "image first and last", "sizes and numbers", "videos"])
def test_vision_tower_gives_what_transformers_gives(backbone, reference, name):
    inputs = batch(BATCHES[name])
    with torch.no_grad():
        expected = reference.model.visual(inputs.pixel_values, grid_thw=inputs.image_grid_thw).pooler_output
        mine = image_features(backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw)
        split = image_features(reference.model.visual, inputs.pixel_values, inputs.image_grid_thw)
    assert expected.std() > 1e-3
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(split, expected, rtol=1e-4, atol=1e-6)


def test_images_of_one_length_are_attended_to_in_one_call(backbone, monkeypatch):
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *others, **options: calls.append(tuple(query.shape)) or attention(query, *others, **options),
    )
    inputs = batch([[(4, 6), (4, 4), 1, (2, 4, 4)], [(6, 4), (4, 4)]])
    image_features(backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw)
    assert calls == [(4, 2, 16, 16), (2, 2, 24, 16)]  # images, heads, patches, width; the tower has one block


def test_vision_gradients_are_the_same_with_checkpointing(backbone):
    inputs = batch([[(4, 4), (4, 4)]])
    other = copy.deepcopy(backbone).train()
    visual = other.model.visual
    found, calls = [], []
    visual.blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(len(found)))
    for on in (False, True):
        if on:
            other.activation_checkpointing_enable()
        visual.zero_grad()
        image_features(visual, inputs.pixel_values, inputs.image_grid_thw).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in visual.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    assert calls == [0, 1, 1]  # computed again for the gradient


def test_vision_blocks_can_be_sharded(backbone, tmp_path):
    """Under FSDP2 a block has whole weights only while it is called itself."""

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = copy.deepcopy(backbone.model.visual)

        def forward(self, pixels, grids):
            return image_features(self.visual, pixels, grids)

    inputs = batch([[(4, 4), 2, (6, 4)]])
    expected = image_features(backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        tower, mesh = Tower(), init_device_mesh("cpu", (1,))
        for block in tower.visual.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(tower, mesh=mesh)
        found = tower(inputs.pixel_values, inputs.image_grid_thw)
        found.square().sum().backward()
        assert all(parameter.grad is not None for parameter in tower.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", BATCHES)
def test_hidden_states_are_transformers_own(backbone, reference, name):
    check_states(backbone, reference, BATCHES[name], pad_to=70)


def test_hidden_states_of_random_batches_are_transformers_own(backbone, reference):
    rng = np.random.default_rng(2)
    for _ in range(8):
        check_states(backbone, reference, random_samples(rng))


def check_states(backbone, reference, samples, pad_to=0):
    inputs = batch(samples, pad_to)
    with torch.no_grad():
        expected = reference.model(**upstream(samples, inputs), use_cache=False).last_hidden_state
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
        made = make_backbone(PRESETS["small"]())
    kinds = ["linear" if hasattr(layer, "linear_attn") else "full" for layer in made.model.language_model.layers]
    assert kinds == ["linear", "full", "linear", "full"]
