"""The policy network: sizes as the paper prints them, padding that changes nothing, gradients, precision, determinism."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding, apply_rotary_pos_emb

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.action_expert import following_positions, rotary_frequencies, rotary_table, rotate
from vlarig.policies.qwen_vla.backbone import BackboneInputs, Context, positions_of
from vlarig.policies.qwen_vla.model import build, cast_parameters, parameter_counts
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.vision import patchify

IMAGE, START, END = 6, 3, 4
TINY = PRESETS["tiny"]()
EMBODIMENTS = (("seven", 7), ("three", 3), ("fourteen", 14))
VARIANTS = {
    "zero_pad": TINY,
    "multi_mlp": dataclasses.replace(TINY, projection="multi_mlp", projection_embodiments=EMBODIMENTS),
    "concat": dataclasses.replace(TINY, projection="concat", projection_embodiments=EMBODIMENTS),
    "state": dataclasses.replace(TINY, state="dit", state_size=8),
    "ends": dataclasses.replace(
        TINY, expert=dataclasses.replace(TINY.expert, context="ends"), stem="conv", kept_tokens=3, state="dit", state_size=8
    ),
    "ends, no state": dataclasses.replace(TINY, expert=dataclasses.replace(TINY.expert, context="ends")),
    "concat, state": dataclasses.replace(
        TINY, projection="concat", projection_embodiments=EMBODIMENTS, state="dit", state_size=8
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prompts(config, samples, seed=0):
    """Inputs of samples, each (tokens of text, images, tokens of text)."""
    rng = np.random.default_rng(seed)
    block = [START, *[IMAGE] * config.image_tokens(), END]
    steps, images = [], []
    for before, count, after in samples:
        steps.append(rng.integers(8, 1024, before).tolist() + block * count + rng.integers(8, 1024, after).tolist())
        images += [rng.integers(0, 256, (*config.image_size, 3), dtype=np.uint8) for _ in range(count)]
    length = max(len(step) for step in steps)
    ids = torch.tensor([step + [0] * (length - len(step)) for step in steps])
    valid = torch.tensor([[True] * len(step) + [False] * (length - len(step)) for step in steps])
    if not images:
        return BackboneInputs(ids, valid, positions_of(ids, valid, None, IMAGE))
    grids = torch.tensor([[1, *(side // 16 for side in config.image_size)]] * len(images))
    return BackboneInputs(
        ids,
        valid,
        positions_of(ids, valid, grids, IMAGE, kept_tokens=config.kept_tokens),
        patchify(torch.from_numpy(np.stack(images))),
        grids,
    )


def chunk(config, sizes, seed=1):
    """Noise, times and a mask of samples, each (steps, channels), and what the configuration's options need."""
    generator = torch.Generator().manual_seed(seed)
    count = len(sizes)
    noisy = torch.randn(count, config.horizon, config.channels, generator=generator)
    time = torch.rand(count, generator=generator)
    mask = torch.zeros(noisy.shape, dtype=torch.bool)
    for sample, (steps, channels) in enumerate(sizes):
        mask[sample, :steps, :channels] = True
    options = {}
    if config.projection != "zero_pad":
        actions = [size for _, size in config.projection_embodiments]
        options["embodiment"] = torch.tensor([actions.index(channels) for _, channels in sizes])
    if config.state == "dit":
        options["state"] = torch.randn(count, config.state_numbers, generator=generator)
    return noisy, time, mask, options


def test_counts_of_the_full_model_are_the_paper_s():
    counts = parameter_counts(build(PRESETS["4b"](), device="meta"))
    millions = {part: f"{count / 1e6:.1f}M" for part, count in counts.items()}
    billions = {part: f"{count / 1e9:.2f}B" for part, count in counts.items()}
    assert millions["block"] == "70.8M"  # paper, section 2.2, as all of these
    assert billions["blocks"] == "1.13B"
    assert millions["action projections"] == "4.9M"
    assert millions["vlm projection"] == "3.9M"
    assert millions["time embedding"] == "2.8M"
    assert millions["output modulation"] == "4.7M"
    assert billions["action expert"] == "1.15B"
    assert counts["vision"] + counts["language model"] == 4_539_265_536  # Qwen3.5-4B
    assert counts["vision"] == 333_514_240
    assert counts["value head"] == 2561
    assert counts["total"] == 4_539_265_536 + counts["action expert"] + 2561


def test_counts_add_up():
    for config in VARIANTS.values():
        counts = parameter_counts(build(config))
        named = ("blocks", "action projections", "time embedding", "output modulation")
        optional = ("state projection", "vlm projection", "ends projection")
        assert counts["action expert"] == sum(counts.get(part, 0) for part in (*named, *optional))
        assert ("state projection" in counts) == (config.state == "dit")


def test_the_small_model_is_small():
    assert 5.5e6 < parameter_counts(build(PRESETS["small"](), device="meta"))["total"] < 7e6


def test_zero_padding_is_the_lightest_projection():
    wide = tuple((str(size), size) for size in (64, 29, 14, 7))
    count = {
        name: parameter_counts(build(dataclasses.replace(TINY, projection=name, projection_embodiments=own)))[
            "action projections"
        ]
        for name, own in {"zero_pad": (), "multi_mlp": wide, "concat": wide}.items()
    }
    assert count["zero_pad"] < count["concat"] < count["multi_mlp"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mode_runs_and_depends_on_all_it_is_given(name):
    config = VARIANTS[name]
    model = build(config)
    inputs = prompts(config, [(5, 1, 4), (3, 0, 2), (7, 2, 1)])
    noisy, time, mask, options = chunk(config, [(16, 7), (8, 3), (12, 14)])
    with torch.no_grad():
        context = model.encode(inputs)
        found = model.velocity(noisy, time, context, mask, **options)
        assert found.shape == noisy.shape
        assert found.dtype == torch.float32
        assert (found[~mask] == 0).all()
        assert found[mask].std() > 0.02  # random weights still give actions

        def changed(**replaced):
            given = {"noisy": noisy, "time": time, "context": context, "mask": mask, **options, **replaced}
            return (model.velocity(**given) - found).abs().amax(dim=(1, 2))

        assert (changed(noisy=noisy + 0.5) > 1e-4).all()
        assert (changed(time=1 - time) > 1e-4).all()
        assert (changed(context=model.encode(prompts(config, [(5, 1, 4), (3, 0, 2), (7, 2, 1)], seed=9))) > 1e-5).all()
        if "state" in options:
            assert (changed(state=options["state"] + 1) > 1e-5).all()
        if "embodiment" in options:
            others = torch.tensor([2, 0, 0])
            assert (changed(embodiment=others) > 1e-4).all()


def test_concat_gives_each_embodiment_a_segment_of_its_own():
    model = build(VARIANTS["concat"])  # segments 0 to 7, 7 to 10, 10 to 24
    noisy, time, mask, options = chunk(model.config, [(16, 7), (8, 3)])
    with torch.no_grad():
        context = model.encode(prompts(TINY, [(5, 1, 4), (3, 0, 2)]))
        first = model.velocity(noisy, time, context, mask, **options)
        for part in (model.expert.action_projection.encoder[0].weight.T, model.expert.action_projection.decoder[2].weight):
            part[7:] += 1.0
        second = model.velocity(noisy, time, context, mask, **options)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("filler", [1e6, float("nan")])
def test_values_in_masked_entries_change_no_valid_entry(name, filler):
    config = VARIANTS[name]
    model = build(config)
    noisy, time, mask, options = chunk(config, [(16, 7), (8, 3), (12, 14)])
    with torch.no_grad():
        context = model.encode(prompts(config, [(5, 1, 4), (3, 0, 2), (7, 2, 1)]))
        first = model.velocity(noisy, time, context, mask, **options)
        second = model.velocity(torch.where(mask, noisy, filler), time, context, mask, **options)
    assert torch.equal(first, second)


def test_a_short_chunk_is_what_a_short_model_makes_of_it():
    """Steps past the task's chunk are not seen at all: the same weights with a horizon of 8 give the same."""
    noisy, time, mask, _ = chunk(TINY, [(8, 7), (8, 3)])
    model = build(TINY)
    with torch.no_grad():
        context = model.encode(prompts(TINY, [(5, 1, 4), (3, 1, 6)]))
        padded = model.velocity(noisy, time, context, mask)[:, :8]
        alone = model.velocity(noisy[:, :8], time, context, mask[:, :8])
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_a_block_computes_what_is_read_of_it_alone():
    block = build(PRESETS["tiny"]()).expert.blocks[0]
    generator = torch.Generator().manual_seed(0)
    tokens, condition = torch.randn(2, 9, 32, generator=generator), torch.randn(2, 32, generator=generator)
    turns = torch.randn(2, 1, 9, 4, generator=generator)
    attend = torch.tensor([[True] * 9, [True] * 3 + [False] + [True] * 5])[:, None, None]
    whole = block(tokens, condition, turns.cos(), turns.sin(), attend)
    part = block(tokens, condition, turns.cos(), turns.sin(), attend, first=5)
    assert part.shape == (2, 4, 32)
    torch.testing.assert_close(part, whole[:, 5:])


def test_a_whole_trajectory_is_one_chunk():
    """T2A predicts whole sequences in one pass (paper, section 5.2.1); no weight depends on their length."""
    model = build(TINY)
    chunks = dataclasses.replace(TINY, horizon=50)
    noisy, time, mask, _ = chunk(chunks, [(50, 7), (31, 7)])
    with torch.no_grad():
        context = model.encode(prompts(TINY, [(5, 0, 4), (3, 0, 6)]))
        found = model.velocity(noisy, time, context, mask)
        assert found.shape == (2, 50, 64)
        moved = model.velocity(noisy.index_fill(1, torch.tensor([49]), 3.0), time, context, mask)
    assert (moved[0, :49] != found[0, :49]).any()  # its last step is seen by its first ones
    assert torch.equal(moved[1], found[1])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_sample_alone_and_in_a_padded_batch_agree(name):
    config = VARIANTS[name]
    model = build(config)
    samples, sizes = [(5, 1, 4), (3, 0, 2), (7, 2, 1)], [(16, 7), (8, 3), (12, 14)]
    noisy, time, mask, options = chunk(config, sizes)
    inputs = prompts(config, samples)
    with torch.no_grad():
        context = model.encode(inputs)
        together = model.velocity(noisy, time, context, mask, **options)
        values = model.value(context, options.get("state"))
        patches, images = 16, 0
        for index, (before, count, after) in enumerate(samples):
            length = before + after + count * (config.image_tokens() + 2)
            one = BackboneInputs(
                inputs.input_ids[index : index + 1, :length],
                inputs.valid[index : index + 1, :length],
                inputs.positions[:, index : index + 1, :length],
                inputs.pixel_values[images * patches : (images + count) * patches],
                inputs.image_grid_thw[images : images + count],
            )
            images += count
            alone = model.encode(one)
            step = slice(index, index + 1)
            own = {option: value[step] for option, value in options.items()}
            torch.testing.assert_close(alone.states[0], context.states[index, :length], rtol=1e-5, atol=1e-5)
            found = model.velocity(noisy[step], time[step], alone, mask[step], **own)
            torch.testing.assert_close(found, together[step], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.value(alone, own.get("state")), values[step])


def test_no_attention_mask_is_passed_where_nothing_is_padded():
    model = build(TINY)
    with torch.no_grad():
        full = model.encode(prompts(TINY, [(5, 1, 4), (5, 1, 4)]))
        ragged = model.encode(prompts(TINY, [(5, 1, 4), (5, 1, 3)]))
    noisy, time, mask, _ = chunk(TINY, [(16, 7), (16, 3)])
    short = chunk(TINY, [(16, 7), (15, 7)])[2]
    seen = []
    model.expert.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        for context, valid in ((full, mask), (full, short), (ragged, mask)):
            model.velocity(noisy, time, context, valid)
    assert seen[0] is None
    assert seen[1].shape == (2, 1, 1, full.valid.shape[1] + 16)
    assert (~seen[2]).sum() == 1


def test_an_action_expert_that_reads_ends_gets_nothing_else_of_the_prompt():
    config = VARIANTS["ends, no state"]
    model = build(config)
    noisy, time, mask, _ = chunk(config, [(16, 7), (16, 7)])
    found = []
    with torch.no_grad():
        context = model.encode(prompts(config, [(5, 1, 4), (5, 1, 2)]))  # padded by two: its last token is not the sequence's
        for token in (None, -1, -2, -4, -5, -6, -7):
            states = context.states.clone()
            if token is not None:
                states[:, token] += 1
            found.append(model.velocity(noisy, time, dataclasses.replace(context, states=states), mask))
    changed = [(each != found[0]).any(-1).any(-1).tolist() for each in found[1:]]
    assert changed == [[True, False], [True, False], [True, True], [False, True], [False, True], [False, False]]


def test_gradients_reach_every_weight():
    for name, config in VARIANTS.items():
        model = build(config).train()
        inputs = prompts(config, [(5, 1, 4), (3, 1, 2), (7, 2, 1)])
        noisy, time, mask, options = chunk(config, [(16, 7), (8, 3), (12, 14)])
        context = model.encode(inputs)
        velocity = model.velocity(noisy, time, context, mask, **options)
        (velocity.square().sum() + model.value(context, options.get("state")).sum()).backward()
        dead = [each for each, weights in model.named_parameters() if weights.grad is None or not weights.grad.any()]
        dead = [each for each in dead if "visual.thing" not in each]  # it learns by marks
        assert not dead, (name, dead)


def test_masked_entries_give_no_gradient():
    model = build(TINY)
    noisy, time, mask, _ = chunk(TINY, [(8, 7)])
    with torch.no_grad():
        context = model.encode(prompts(TINY, [(5, 1, 4)]))
    noisy.requires_grad_()
    model.velocity(noisy, time, context, mask).sum().backward()
    assert (noisy.grad[~mask] == 0).all()
    assert noisy.grad[mask].any()


def test_no_gradient_passes_the_value_head():
    model = build(TINY).train()
    torch.nn.init.normal_(model.value_head.readout.weight)
    context = model.encode(prompts(TINY, [(5, 1, 4), (3, 0, 2)]))
    assert context.states.requires_grad
    model.value(context).square().sum().backward()
    assert model.value_head.readout.weight.grad.any()
    assert [name for name, weights in model.named_parameters() if weights.grad is not None] == [
        "value_head.readout.weight",
        "value_head.readout.bias",
    ]


def test_the_value_is_read_from_the_state_too_where_the_prompt_has_none():
    model = build(VARIANTS["state"])
    _, _, _, options = chunk(VARIANTS["state"], [(16, 7), (8, 3)])
    with torch.no_grad():
        context = model.encode(prompts(VARIANTS["state"], [(5, 1, 4), (3, 0, 2)]))
        torch.nn.init.ones_(model.value_head.readout.weight)
        found = model.value(context, options["state"])
        moved = model.value(context, options["state"] + 0.25)
    torch.testing.assert_close(moved - found, torch.full((2,), 0.25 * options["state"].shape[1]))


def test_the_value_is_read_from_the_mean_of_the_valid_tokens():
    model = build(TINY)
    states = torch.randn(2, 6, 32)
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    context = Context(states, valid, torch.zeros(3, 2, 6, dtype=torch.int64))
    with torch.no_grad():
        assert (model.value(context) == 0).all()  # before training
        torch.nn.init.normal_(model.value_head.readout.weight)
        weight = model.value_head.readout.weight[0]
        expected = torch.stack([states[0].mean(0) @ weight, states[1, :4].mean(0) @ weight])
        torch.testing.assert_close(model.value(context), expected)


@pytest.mark.parametrize(("sections", "theta"), [([11, 11, 10], 1e7), ([3, 3, 2], 1e4), ([2, 1, 1], 1e4)])
def test_rotary_positions_are_the_backbone_s(sections, theta):
    head = 8 * sum(sections)
    rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.25, "mrope_section": sections}
    theirs = Qwen3_5TextRotaryEmbedding(
        Qwen3_5TextConfig(head_dim=head, rope_parameters={**rope, "mrope_interleaved": True}, num_hidden_layers=1)
    )
    positions = torch.randint(0, 300, (3, 2, 9))
    query, key = torch.randn(2, 3, 9, head), torch.randn(2, 3, 9, head)
    cos, sin = theirs(query, positions)
    mine = rotary_table(positions, *rotary_frequencies(tuple(sections), theta))
    torch.testing.assert_close(mine[0], cos, rtol=0, atol=5e-5)  # angles up to 300 in float32
    torch.testing.assert_close(mine[1], sin, rtol=0, atol=5e-5)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    assert torch.equal(rotate(query, cos.unsqueeze(1), sin.unsqueeze(1)), expected[0])
    assert torch.equal(rotate(key, cos.unsqueeze(1), sin.unsqueeze(1)), expected[1])


def test_positions_go_on_after_the_prompt():
    inputs = prompts(TINY, [(5, 1, 4), (3, 0, 2)])
    positions = following_positions(inputs.positions, inputs.valid, 3)
    # 5 of text, the start token, an image of 2 x 2 tokens that takes two positions, the end token, 4 of text: the last is at 12.
    assert positions[:, 0, -3:].tolist() == [[13, 14, 15]] * 3
    assert positions[:, 1, -3:].tolist() == [[5, 6, 7]] * 3


def test_equal_seeds_give_equal_weights_whatever_the_generators_hold():
    torch.manual_seed(1)
    first = build(TINY, seed=3).state_dict()
    torch.manual_seed(2)
    torch.rand(5)
    before = torch.get_rng_state()
    second, other = build(TINY, seed=3).state_dict(), build(TINY, seed=4).state_dict()
    build(TINY, seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["expert.vlm_projection.weight"], other["expert.vlm_projection.weight"])
    name = "backbone.model.language_model.embed_tokens.weight"
    assert not torch.equal(first[name], other[name])


def test_weights_are_ordinary_numbers():
    for name, weights in build(PRESETS["small"](), seed=0).named_parameters():
        assert weights.isfinite().all(), name
        assert weights.abs().max() < 5, name


def test_a_model_without_weights_is_filled_by_another_s():
    full, empty = build(TINY, seed=1), build(TINY, seed=None)
    embedding, head = empty.backbone.model.language_model.embed_tokens.weight, empty.backbone.lm_head.weight
    assert head is embedding
    empty.load_state_dict(full.state_dict())
    noisy, time, mask, _ = chunk(TINY, [(16, 7)])
    inputs = prompts(TINY, [(5, 1, 4)])
    with torch.no_grad():
        expected = full.velocity(noisy, time, full.encode(inputs), mask)
        assert torch.equal(empty.velocity(noisy, time, empty.encode(inputs), mask), expected)


@pytest.mark.parametrize("name", ["concat, state", "zero_pad"])
def test_half_precision_stays_near(name):
    config = VARIANTS[name]
    full, half = build(config), build(config, dtype=torch.bfloat16)
    noisy, time, mask, options = chunk(config, [(16, 7), (8, 3)])
    inputs = prompts(config, [(5, 1, 4), (3, 0, 2)])
    with torch.no_grad():
        expected = full.velocity(noisy, time, full.encode(inputs), mask, **options)
        context = half.encode(inputs)
        assert context.states.dtype == torch.bfloat16
        found = half.velocity(noisy, time, context, mask, **options)
        assert found.dtype == half.value(context, options.get("state")).dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_weights_in_bfloat16_give_what_float32_weights_give_that_compute_in_it():
    """So a replica that acts with half the memory has the log-probabilities that the update computes with its float32 weights."""
    acting, updating = build(VARIANTS["state"], dtype=torch.bfloat16), build(VARIANTS["state"], compute=torch.bfloat16)
    assert updating.expert.vlm_projection.weight.dtype == torch.float32
    noisy, time, mask, options = chunk(VARIANTS["state"], [(16, 7), (8, 3)])
    inputs = prompts(VARIANTS["state"], [(5, 1, 4), (3, 0, 2)])
    for model in (acting, updating):
        torch.nn.init.constant_(model.value_head.readout.weight, 0.1)
    with torch.no_grad():
        contexts = [model.encode(inputs) for model in (acting, updating)]
        assert torch.equal(contexts[0].states, contexts[1].states)
        state = options["state"]
        assert torch.equal(acting.value(contexts[0], state), updating.value(contexts[1], state))
        velocities = [model.velocity(noisy, time, contexts[0], mask, **options) for model in (acting, updating)]
        assert torch.equal(*velocities)
        precise = build(VARIANTS["state"])
        with torch.autocast("cpu", torch.bfloat16):  # the caller's does not matter: the model has a precision of its own
            assert torch.equal(precise.encode(inputs).states, build(VARIANTS["state"]).encode(inputs).states)
        assert not torch.equal(precise.encode(inputs).states, contexts[0].states.float())


def test_weights_do_not_compute_in_more_than_they_have():
    with pytest.raises(PolicyError, match="weights in bfloat16 cannot compute in float32"):
        build(TINY, dtype=torch.bfloat16, compute=torch.float32)
    with pytest.raises(PolicyError, match="weights in float16 cannot compute in float16"):
        build(TINY, dtype=torch.float16)


def test_half_precision_leaves_what_the_ratio_needs():
    model = build(VARIANTS["state"])
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cast_parameters(model, torch.bfloat16)
    precise = {name for name, weights in model.named_parameters() if weights.dtype == torch.float32}
    flow = ("action_projection", "state_projection", "time_embedding", "output_modulation", "readout")
    assert all(name in precise for name, _ in model.named_parameters() if name.split(".")[1] in flow)
    others = {name.rsplit(".", 2)[-2] for name in precise if name.split(".")[1] not in flow}
    assert others <= {"norm", "norm1", "norm2", "q_norm", "k_norm", "query_norm", "key_norm", "pos_embed", "linear_attn"} | {
        "input_layernorm",
        "post_attention_layernorm",
    }
    assert any("inv_freq" in name for name in buffers)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert model.backbone.lm_head.weight is model.backbone.model.language_model.embed_tokens.weight


def test_velocities_of_two_precise_times_differ():
    """The flow time and the noise are not rounded to bfloat16 on their way in."""
    model = build(TINY, dtype=torch.bfloat16)
    noisy, _, mask, _ = chunk(TINY, [(16, 7)])
    with torch.no_grad():
        context = model.encode(prompts(TINY, [(5, 1, 4)]))
        field = lambda chunk, time: model.velocity(chunk, time, context, mask)  # noqa: E731
        first = field(noisy, torch.tensor([0.9]))
        assert not torch.equal(first, field(noisy, torch.tensor([0.9002])))
        assert not torch.equal(first, field(noisy * 1.0002, torch.tensor([0.9])))


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("zero_pad", {"state": torch.zeros(1, 8)}, "reads none"),
        ("state", {"state": None}, "a state is missing"),
        ("multi_mlp", {"embodiment": None}, "pass the embodiment's index"),
        ("concat", {"embodiment": None}, "pass the embodiment's index"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, sentence):
    config = VARIANTS[name]
    model = build(config)
    noisy, time, mask, options = chunk(config, [(16, 7)])
    with torch.no_grad():
        given = {"noisy": noisy, "time": time, "context": model.encode(prompts(config, [(3, 0, 2)])), "mask": mask, **options}
        with pytest.raises((AssertionError, PolicyError), match=sentence):
            model.velocity(**{**given, **change})
