"""Qwen-VLA behind the policy API: answers follow from the request alone, in the env's own units, for any robot in one batch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trained_policy import trained_bundle
from transformers.models.qwen3_5 import modeling_qwen3_5

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness.run import policy_state
from vlarig.policies.api import PolicyError, Recorded, Reply, Request
from vlarig.policies.conventions import embodiment_named, known_embodiments
from vlarig.policies.qwen_vla import policy as policy_module
from vlarig.policies.qwen_vla.acceleration import accelerations, check_acceleration, kernels_in_use, plain
from vlarig.policies.qwen_vla.checkpoint import Description, LoadedPolicy, load, save_checkpoint
from vlarig.policies.qwen_vla.flow import Sde, euler, start_noise
from vlarig.policies.qwen_vla.inputs import Prompted
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics, denormalize
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.recording import RecordedBatch, Recording, evaluate
from vlarig.policies.registry import load_policy

NAVIGATOR = next(each for each in known_embodiments()[0].values() if each.arms == "none")


def request(seed: int, embodiment: Embodiment = TABLETOP_PANDA, frames: int = 1, views: int = 2, **changes: Any) -> Request:
    rng = np.random.default_rng(seed)
    tags = list(embodiment.cameras)[:views]
    observation = Observation(
        images={tag: rng.integers(0, 256, (frames, 96, 128, 3), np.uint8) for tag in tags},
        state=rng.normal(size=len(embodiment.state_layout)).astype(np.float32),
        instruction=changes.pop("instruction", "put the red cube in the tray"),
    )
    fields = {"env": 0, "key": f"suite/p@1/task/base/{seed}/0", "chunk": 0, "seed": 2**63 + seed}
    return Request(**fields | changes, observation=observation, embodiment=embodiment, n_action_steps=8)


@pytest.fixture(scope="module")
def policy() -> QwenVlaPolicy:
    return QwenVlaPolicy("tiny")


def test_an_answer_follows_from_the_request_alone(policy: QwenVlaPolicy) -> None:
    (alone,) = policy.act([request(1)])
    among = policy.act([request(2, instruction="stack the blue cube on the red one"), request(1, env=5), request(3)])
    np.testing.assert_allclose(among[1].actions, alone.actions, atol=1e-5)
    (again,) = policy.act([request(1)])
    np.testing.assert_array_equal(again.actions, alone.actions)
    assert alone.actions.shape == (16, 7)


@pytest.mark.parametrize("other", [{"seed": 5}, {"instruction": "push the cube"}], ids=["another seed", "another instruction"])
def test_seed_and_instruction_matter(policy: QwenVlaPolicy, other: dict[str, Any]) -> None:
    first, second = (
        policy.act([request(1)])[0],
        policy.act([request(1, **other) if "seed" not in other else replace_seed(1, 5)])[0],
    )
    assert np.abs(first.actions - second.actions).max() > 1e-4


def test_what_it_has_done_is_no_part_of_its_identity(policy: QwenVlaPolicy) -> None:
    """Or an evaluation during training, which follows others in its process, could not be resumed by another process."""
    fresh = QwenVlaPolicy.of(policy.bundle)
    before = policy_state(fresh)
    fresh.record({"sde": {"form": "noise_one"}, "states": False})
    fresh.act([request(1), request(2, WIDOWX_BRIDGE, views=1)])
    fresh.record(None)
    fresh.act([request(1)])
    assert policy_state(fresh) == before


def replace_seed(content: int, seed: int) -> Request:
    return dataclasses.replace(request(content), seed=seed)


def test_images_matter(policy: QwenVlaPolicy) -> None:
    seen, other = request(1), request(1)
    other.observation["images"]["ego"] = 255 - other.observation["images"]["ego"]
    assert np.abs(policy.act([seen])[0].actions - policy.act([other])[0].actions).max() > 1e-5


def test_lengths_views_histories_and_robots_share_a_batch(policy: QwenVlaPolicy) -> None:
    requests = [
        request(1),
        request(2, LIBERO_PANDA, views=1, instruction="pick up the black bowl " * 9),
        request(3, WIDOWX_BRIDGE, views=1, frames=1),
        request(4, NAVIGATOR, frames=5, views=1, instruction="walk to the kitchen and stop"),
        request(5, TABLETOP_PANDA, views=0),
    ]
    replies = policy.act(requests)
    assert [reply.actions.shape for reply in replies] == [(16, 7), (16, 7), (16, 7), (8, 3), (16, 7)]
    for each, reply in zip(requests, replies, strict=True):
        np.testing.assert_allclose(reply.actions, policy.act([each])[0].actions, atol=1e-5, rtol=1e-4)


def test_random_weights_stay_within_the_channels_bounds(policy: QwenVlaPolicy) -> None:
    (reply,) = policy.act([request(3, WIDOWX_BRIDGE)])
    space = WIDOWX_BRIDGE.action_space()
    assert (reply.actions >= space.low).all()
    assert (reply.actions <= space.high).all()
    assert reply.actions[:, :3].std() > 1e-3


def test_actions_are_denormalised_by_the_data_sets_statistics() -> None:
    bundle = trained_bundle()
    doubled = Statistics(tuple(2 * low for low in bounds_statistics(LIBERO_PANDA).q01), (2.0,) * 7, "twice")
    statistics = bundle.description.statistics | {"libero": DatasetStatistics(doubled)}
    twice = dataclasses.replace(bundle, description=dataclasses.replace(bundle.description, statistics=statistics))
    once = QwenVlaPolicy.of(bundle).act([request(1, LIBERO_PANDA)])[0].actions
    np.testing.assert_allclose(QwenVlaPolicy.of(twice).act([request(1, LIBERO_PANDA)])[0].actions, 2 * once, rtol=1e-6)


def test_a_chunk_begins_with_the_prefix_and_the_rest_is_fitted_to_it(policy: QwenVlaPolicy) -> None:
    plain, other = request(1), request(2)
    prefix = np.linspace(-0.9, 0.9, 21, dtype=np.float32).reshape(3, 7)
    (free,) = policy.act([plain])
    fitted, beside = policy.act([dataclasses.replace(plain, prefix=prefix), other])
    np.testing.assert_allclose(fitted.actions[:3], prefix, atol=1e-6)
    assert np.abs(fitted.actions[3:] - free.actions[3:]).max() > 1e-4
    np.testing.assert_allclose(beside.actions, policy.act([other])[0].actions, atol=1e-5)


def test_a_robot_that_the_checkpoint_does_not_know_stops_the_run() -> None:
    policy = QwenVlaPolicy.of(trained_bundle())
    policy.check("libero_goal", LIBERO_PANDA)
    with pytest.raises(PolicyError, match=r"was not trained on 'vlnce_r2r', .* it knows libero_panda, widowx_bridge"):
        policy.check("r2r", NAVIGATOR)


def test_a_convention_that_differs_stops_the_run_and_says_where() -> None:
    policy = QwenVlaPolicy.of(trained_bundle())
    gripper = dataclasses.replace(LIBERO_PANDA.channels[-1], gripper="1 opens, 0 closes")
    other = dataclasses.replace(LIBERO_PANDA, channels=(*LIBERO_PANDA.channels[:-1], gripper))
    with pytest.raises(PolicyError, match=r"does not fit suite 'libero_goal'.*the gripper convention of channel gripper"):
        policy.check("libero_goal", other)


def test_temperature_zero_forgets_the_seed() -> None:
    cold = QwenVlaPolicy("tiny", temperature="0")
    np.testing.assert_array_equal(cold.act([replace_seed(1, 5)])[0].actions, cold.act([replace_seed(1, 6)])[0].actions)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step": "4"}, r"qwen-vla:tiny has no option 'step'; did you mean steps"),
        ({"steps": "0"}, r"the option steps='0' of qwen-vla:tiny is not possible: .*greater than or equal to 1"),
        ({"temperature": "hot"}, r"the option temperature='hot' .* number"),
        ({"dtype": "int8"}, r"the option dtype='int8' .*'float32' or 'bfloat16'"),
        ({"device": "gpu7"}, r"device=gpu7 is none that a policy can use; choose auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, r"device=meta is none"),
        ({"device": "cuda:99"}, r"device=cuda:99 cannot be used here"),
        ({"temperature": "inf"}, r"the option temperature='inf' .* finite number"),
        ({"seed": str(2**64)}, r"seed=18446744073709551616 has more than 64 bits"),
        ({"kernels": "on"}, r"the option kernels='on' .*'auto' or 'off'"),
        ({"backbone": "nowhere"}, r"nowhere"),
    ],
)
def test_options_that_are_not_possible_are_refused(
    options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PolicyError, match=sentence) as caught:
        load_policy("qwen-vla:tiny", options)
    assert "\n" not in str(caught.value)


def test_bfloat16_is_what_the_weights_are_and_strict_refuses_it(policy: QwenVlaPolicy) -> None:
    half = QwenVlaPolicy("tiny", dtype="bfloat16")
    assert half.model.expert.vlm_projection.weight.dtype == torch.bfloat16
    assert half.model.backbone.model.language_model.embed_tokens.weight.dtype == torch.bfloat16
    rounded, exact = half.act([request(1)])[0].actions, policy.act([request(1)])[0].actions
    assert 1e-5 < np.abs(rounded - exact).max() < 0.1
    for each in (half, QwenVlaPolicy.of(half.bundle)):  # in memory the weights decide it, not the options
        with pytest.raises(PolicyError, match=r"--strict computes in float32 and the policy in bfloat16"):
            each.strict()


def test_threads_are_as_many_as_the_option_says_and_one_under_strict() -> None:
    before = torch.get_num_threads()
    try:
        policy = QwenVlaPolicy("tiny", threads="2")
        assert torch.get_num_threads() == 2
        policy.strict()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("temperature", "steps"), [("1", "4"), ("0.6", "4"), ("0.6", "1"), ("0.6", "10")])
def test_a_chunk_is_eulers_from_noise_of_that_temperature(policy: QwenVlaPolicy, temperature: str, steps: str) -> None:
    bridge = request(1, WIDOWX_BRIDGE, views=1)
    role = policy._role_of(WIDOWX_BRIDGE, "suite")
    with torch.no_grad():
        prepared = policy.prepare([bridge])
        context, mask = policy.model.encode(prepared.inputs), prepared.mask
        field = lambda noisy, time: policy.model.velocity(noisy, time, context, mask)  # noqa: E731
        chunk = euler(field, float(temperature) * start_noise([bridge.seed], 16, 64, 1.0), int(steps))
    expected = denormalize(chunk[0, :, :7].numpy(), role.actions)
    tuned = QwenVlaPolicy.of(policy.bundle, temperature=temperature, steps=steps)
    np.testing.assert_allclose(tuned.act([bridge])[0].actions, expected, atol=1e-6)


def test_a_checkpoints_policy_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    bundle = trained_bundle()
    save_checkpoint(tmp_path / "saved", bundle)
    expected = QwenVlaPolicy.of(bundle).act([request(1, LIBERO_PANDA)])[0].actions
    np.testing.assert_array_equal(QwenVlaPolicy(str(tmp_path / "saved")).act([request(1, LIBERO_PANDA)])[0].actions, expected)


def changed(bundle: LoadedPolicy, **fields: Any) -> LoadedPolicy:
    """Another architecture with the same robots, and weights of its own."""
    config = dataclasses.replace(bundle.description.config, **fields)
    description = dataclasses.replace(bundle.description, config=config)
    return LoadedPolicy(description, build(config, 0), bundle.tokenizer, "in memory")


@pytest.mark.parametrize("state", ["prompt", "dit"])
def test_the_state_matters_where_the_model_reads_it(state: str) -> None:
    policy = QwenVlaPolicy.of(changed(trained_bundle(), state=state, state_size=10 if state == "dit" else 0))
    still, moved = request(1, LIBERO_PANDA), request(1, LIBERO_PANDA)
    moved.observation["state"] = moved.observation["state"] * 0
    assert np.abs(policy.act([still])[0].actions - policy.act([moved])[0].actions).max() > 1e-5
    with pytest.raises(PolicyError, match="reads the state, and the checkpoint has no statistics of the state"):
        policy.act([request(1, WIDOWX_BRIDGE)])
    moved.observation["state"] = np.full(8, np.nan, np.float32)
    with pytest.raises(PolicyError, match="the state holds a number that is not finite; the env that sent it is broken"):
        policy.act([moved])


def test_the_state_is_normalised_and_padded_before_the_expert_reads_it() -> None:
    bundle = changed(trained_bundle(), state="dit", state_size=10)
    libero = DatasetStatistics(bounds_statistics(LIBERO_PANDA), Statistics((-4.0,) * 8, (0.0,) * 8, "made up"))
    description = dataclasses.replace(bundle.description, statistics=bundle.description.statistics | {"libero": libero})
    policy = QwenVlaPolicy.of(dataclasses.replace(bundle, description=description))
    libero = request(1, LIBERO_PANDA)
    libero.observation["state"] = np.array([-4, -3, -2, -1, 0, 1, -9, -2], np.float32)
    policy.recording = Recording(Sde())
    replies = policy.act([libero])
    state = replies[0].recorded.arrays["state"]
    np.testing.assert_allclose(state, [-1, -0.5, 0, 0.5, 1, 1, -1, 0, 0, 0])
    assert_ratio_one(policy, replies, policy.recording.sde)
    with torch.no_grad():
        as_it_was, otherwise = (
            evaluated(policy, [with_arrays(replies[0], {"state": each})], policy.recording.sde).log_probability
            for each in (state, np.ones(10, np.float32))
        )
    assert as_it_was != otherwise


@pytest.mark.parametrize("projection", ["multi_mlp", "concat"])
def test_every_robot_of_a_batch_goes_through_its_own_projection(projection: str) -> None:
    sizes = (("widowx_bridge", 7), ("libero_panda", 7))
    policy = QwenVlaPolicy.of(changed(trained_bundle(), projection=projection, projection_embodiments=sizes))
    requests = [request(1, LIBERO_PANDA), request(2, WIDOWX_BRIDGE, views=1)]
    for each, reply in zip(requests, policy.act(requests), strict=True):
        np.testing.assert_allclose(reply.actions, policy.act([each])[0].actions, atol=1e-5)
    policy.recording = Recording(Sde())
    replies = policy.act(requests)
    assert [int(reply.recorded.arrays["embodiment"]) for reply in replies] == [1, 0]
    assert_ratio_one(policy, replies, policy.recording.sde)
    policy.recording = None
    before = [policy.act([each])[0].actions for each in requests]
    (*_, last) = policy.model.expert.action_projection.last_layers()
    with torch.no_grad():
        last.weight[-7:] *= 3  # of the second robot of the two alone
    after = [policy.act([each])[0].actions for each in requests]
    assert np.abs(after[0] - before[0]).max() > 1e-4
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((("libero_panda", 5),), r"has weights for 5 action channels of 'libero_panda', which has 7; they must be the same"),
        ((("vlnce_r2r", 3),), r"projection 'concat' has no weights for 'libero_panda'"),
    ],
)
def test_a_presets_projection_refuses_a_robot_that_it_has_no_weights_for(sizes: Any, sentence: str) -> None:
    bundle = trained_bundle()
    preset = dataclasses.replace(bundle, description=Description(bundle.description.config))
    policy = QwenVlaPolicy.of(changed(preset, projection="concat", projection_embodiments=sizes))
    with pytest.raises(PolicyError, match=sentence):
        policy.check("libero_goal", LIBERO_PANDA)


def test_a_second_suite_with_a_robot_of_the_same_name_is_checked_again() -> None:
    trained = QwenVlaPolicy.of(trained_bundle())
    trained.check("libero_goal", LIBERO_PANDA)
    with pytest.raises(PolicyError, match=r"does not fit suite 'other'.*control frequency"):
        trained.check("other", dataclasses.replace(LIBERO_PANDA, control_frequency=99.0))
    preset = QwenVlaPolicy("tiny")
    preset.act([request(1)])
    channels = tuple(dataclasses.replace(each, low=5.0, high=6.0) for each in TABLETOP_PANDA.channels)
    (reply,) = preset.act([request(1, dataclasses.replace(TABLETOP_PANDA, channels=channels))])
    assert reply.actions.min() >= 5


def with_arrays(reply: Reply, others: Mapping[str, np.ndarray] | None = None, without: str = "") -> Recorded:
    """What was recorded with a reply, with other arrays."""
    assert reply.recorded is not None
    arrays = {name: array for name, array in reply.recorded.arrays.items() if name != without}
    return dataclasses.replace(reply.recorded, arrays=arrays | dict(others or {}))


def evaluated(policy: QwenVlaPolicy, recorded: list[Any], sde: Sde) -> Any:
    return evaluate(policy.model, RecordedBatch.stack(recorded, 64), sde)


def assert_ratio_one(policy: QwenVlaPolicy, replies: list[Reply], sde: Sde) -> None:
    with torch.no_grad():
        again = evaluated(policy, [reply.recorded for reply in replies], sde).log_probability
    stored = torch.tensor([reply.recorded.log_probability for reply in replies])
    torch.testing.assert_close((again - stored).exp(), torch.ones(len(replies)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["score_one", "noise_one", "score_all"])
def test_recorded_answers_give_ratio_one_with_unchanged_weights(policy: QwenVlaPolicy, form: Any) -> None:
    sde = Sde(steps=3, form=form)
    policy.recording = Recording(sde)
    try:
        replies = policy.act([request(1), request(2, WIDOWX_BRIDGE, views=1), request(3, NAVIGATOR, frames=3, views=1)])
    finally:
        policy.recording = None
    assert_ratio_one(policy, replies, sde)
    assert_ratio_one(policy, replies[2:0:-1], sde)  # in another order, and without the longest
    without = [with_arrays(reply, without="states") for reply in replies]
    with pytest.raises(PolicyError, match=r"recorded without the backbone's states; record with states=True"):
        evaluated(policy, without, sde)
    with pytest.raises(PolicyError, match=r"2 of 3 recorded answers have 'states'; record all of them alike"):
        evaluated(policy, [without[0], replies[1].recorded, replies[2].recorded], sde)


def test_values_are_the_value_heads_of_the_valid_tokens_mean() -> None:
    policy = QwenVlaPolicy("tiny")
    readout = policy.model.value_head.readout
    torch.nn.init.normal_(readout.weight)
    requests = [request(1), request(2, instruction="put the red cube in the tray, then the blue one on it", views=1)]
    values = policy.value(requests)
    for each, value in zip(requests, values, strict=True):
        with torch.no_grad():
            mean = policy.model.encode(policy.prepare([each]).inputs).states[0].mean(0)  # alone: no padding
            by_hand = float(mean @ readout.weight[0] + readout.bias[0])
        assert value == pytest.approx(by_hand, abs=1e-5)
    assert values[0] != values[1]


def test_faster_ways_are_compared_with_the_plain_one(monkeypatch: pytest.MonkeyPatch, policy: QwenVlaPolicy) -> None:
    assert check_acceleration(policy.model, policy._probe, ["drop it"]) == 0
    right_chunks = policy._probe()
    opening = QwenVlaPolicy.of(load("tiny"))
    with_kernels(opening)
    right = modeling_qwen3_5.torch_chunk_gated_delta_rule

    def wrong(*args: Any, **kwargs: Any) -> Any:
        output, state = inspect.unwrap(right)(*args, **kwargs)
        return output.cumsum(1), state  # the layer's norm would hide a mere factor

    wrong.__wrapped__ = inspect.unwrap(right)  # type: ignore[attr-defined]
    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", wrong)
    with pytest.raises(PolicyError, match=r"differs from the plain one by .* of a chunk's range, more than 1e-04; drop it"):
        check_acceleration(opening.model, opening._probe, ["drop it"])
    with plain(opening.model):
        torch.testing.assert_close(opening._probe(), right_chunks)
    assert (opening._probe() - right_chunks).abs().max() > 1e-4


def with_kernels(policy: QwenVlaPolicy) -> None:
    """As for bfloat16 on a GPU: its layers take the kernels that transformers has."""
    for layer in policy.model.backbone.model.language_model.layers:
        vars(getattr(layer, "linear_attn", layer)).pop("forward", None)


def foreign_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transformers call a kernel that takes what those of flash-linear-attention take: bfloat16 alone."""
    own = inspect.unwrap(modeling_qwen3_5.torch_chunk_gated_delta_rule)

    @functools.wraps(own)
    def picky(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert query.dtype == torch.bfloat16, "this kernel takes bfloat16"
        return own(query, *args, **kwargs)

    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", picky)


def test_kernels_that_refuse_the_precision_or_the_device_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign_kernel(monkeypatch)
    assert kernels_in_use() == {"fla": True, "causal_conv1d": False}
    policy = QwenVlaPolicy("tiny")
    assert np.isfinite(policy.act([request(1)])[0].actions).all()
    policy.strict()
    assert np.isfinite(policy.act([request(1)])[0].actions).all()
    assert any(kernels_in_use().values())  # by other models of the process
    other = load("tiny").model
    with pytest.raises(AssertionError, match="this kernel takes bfloat16"):
        other.encode(policy.prepare([request(1)]).inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "remedies"),
    [({}, ["give kernels=off"]), ({"kernels": "off"}, None), ({"compile": True}, ["drop compile=true", "give kernels=off"])],
)
def test_kernels_are_used_and_compared_for_bfloat16_on_a_gpu(
    options: dict[str, Any], remedies: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the policy's weights seem to lie there."""
    checks: list[Any] = []
    opening = QwenVlaPolicy.of(load("tiny", dtype=torch.bfloat16))
    with_kernels(opening)
    foreign_kernel(monkeypatch)
    monkeypatch.setattr(
        policy_module, "check_acceleration", lambda model, probe, remedies: checks.append((model.compute, remedies))
    )
    opening.options = opening.options.model_copy(update=options)
    opening._device = torch.device("cuda")
    opening._accelerate()
    assert checks == ([(torch.bfloat16, remedies)] if remedies else [])
    linear = opening.model.backbone.model.language_model.layers[0].linear_attn
    assert ("forward" in vars(linear)) == (remedies is None)


def test_a_compiled_model_is_compared_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Any] = []
    monkeypatch.setattr(
        policy_module, "check_acceleration", lambda model, probe, remedies: checks.append((model.compute, remedies))
    )
    QwenVlaPolicy("tiny", compile="true")
    QwenVlaPolicy("tiny")
    assert checks == [(torch.float32, ["drop compile=true"])]


def test_the_comparison_covers_single_samples_batches_and_padding(policy: QwenVlaPolicy) -> None:
    seen = set()
    hook = policy.model.expert.blocks[0].register_forward_pre_hook(
        lambda _, arguments: seen.add((len(arguments[0]), arguments[-1] is not None))
    )
    assert policy._probe().shape == (3, 16, 64)
    hook.remove()
    assert seen == {(1, False), (2, True)}


def test_the_comparison_shows_images_although_a_robot_has_no_cameras() -> None:
    bundle = trained_bundle()
    blind = dataclasses.replace(LIBERO_PANDA, name="blind", cameras={})
    robots = {"blind": blind, **bundle.description.embodiments}
    policy = QwenVlaPolicy.of(
        dataclasses.replace(bundle, description=dataclasses.replace(bundle.description, embodiments=robots))
    )
    views = [[tag for tag, _ in sample.views] for sample in built(policy, policy._probe)]
    assert views == [["ego", "cam_left_wrist"]] * 3


def built(policy: QwenVlaPolicy, call: Callable[[], object]) -> list[Prompted]:
    """The samples that the model reads during a call."""
    samples: list[Prompted] = []
    build_batch = policy._inputs.build
    policy._inputs.build = lambda batch, device: (samples.extend(batch), build_batch(batch, device))[1]  # type: ignore[method-assign]
    try:
        call()
    finally:
        del policy._inputs.build
    return samples


def test_presets_play_every_robot(policy: QwenVlaPolicy) -> None:
    for embodiment in known_embodiments()[0].values():
        policy.check("any", embodiment)
    blind = [request(seed, embodiment_named("ur10e"), instruction="push the box") for seed in (1, 2)]
    assert [reply.actions.shape for reply in policy.act([*blind, request(3)])] == [(16, 7)] * 3


#: What a user's process does: it loads the policy compiled, which compares itself, and calls it.
COMPILED = """
import numpy as np
from vlarig.envs.api import Observation
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy

def request(embodiment, views):
    images = {view: np.full((1, 64, 64, 3), 90, np.uint8) for view in views}
    observation = Observation(images=images, state=np.zeros(8, np.float32), instruction="go " * len(views))
    return Request(0, "key", 0, 5, observation, embodiment, 8)

compiled, plain = QwenVlaPolicy("tiny", compile="true"), QwenVlaPolicy("tiny")
requests = [request(TABLETOP_PANDA, ["ego", "cam_left_wrist"]), request(LIBERO_PANDA, ["ego"])]
for ours, theirs in zip(compiled.act(requests), plain.act(requests)):
    np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-4)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_model_answers_as_the_plain_one() -> None:
    if accelerations()["torch.compile"].startswith("unproven"):
        pytest.skip("no compiler for torch.compile on this machine")
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=540, check=False)
    assert done.stdout.strip() == "equal", done.stderr


def test_new_weights_make_it_act_as_the_policy_that_they_come_from() -> None:
    policy, other = QwenVlaPolicy("tiny", seed="1"), QwenVlaPolicy("tiny", seed="2")
    state = other.model.state_dict()
    before, wanted = policy.act([request(1)])[0].actions, other.act([request(1)])[0].actions
    assert not np.array_equal(before, wanted)
    expert = {name: tensor for name, tensor in state.items() if name.startswith("expert.")}
    policy.load_weights(1, expert)
    between = policy.act([request(1)])[0].actions
    policy.load_weights(2, state)
    assert policy.version == 2
    assert policy.revision == f"{policy.bundle.revision}, weights 2"
    np.testing.assert_array_equal(policy.act([request(1)])[0].actions, wanted)
    assert not np.array_equal(between, wanted)
    assert not np.array_equal(between, before)


def test_weights_of_another_model_are_refused() -> None:
    policy = QwenVlaPolicy("tiny")
    (name, tensor), *_ = policy.model.state_dict().items()
    with pytest.raises(
        PolicyError, match=r"weights of version 3 have 'head\.weight' of shape \(2,\), the model has none of that name"
    ):
        policy.load_weights(3, {"head.weight": torch.zeros(2)})
    with pytest.raises(PolicyError, match=rf"have '{name}' of shape \(7,\), the model has of shape"):
        policy.load_weights(3, {name: tensor.new_zeros(7)})
    assert policy.version == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sde": {"lvl": 1}}, r"nothing called sde\.lvl can be recorded; did you mean level\?"),
        ({"state": True}, r"nothing called state can be recorded; did you mean states or sde\?"),
        ({"states": 3}, r"what is to be recorded cannot be: .*`bool`.*"),
        ({"sde": {"level": -1.0}}, r"what is to be recorded cannot be: .*`float` > 0\.0 - at `\$\.sde\.level`"),
        ({"sde": {"form": "two"}}, r"what is to be recorded cannot be: .*'two' - at `\$\.sde\.form`"),
    ],
)
def test_a_recording_that_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        QwenVlaPolicy("tiny").record(options)


def test_states_in_bfloat16_are_recorded_to_the_bit() -> None:
    policy = QwenVlaPolicy("tiny", dtype="bfloat16")
    policy.record({"sde": {"form": "score_all"}})
    replies = policy.act([request(1), request(2, WIDOWX_BRIDGE, views=1)])
    states = [reply.recorded.arrays["states"] for reply in replies if reply.recorded]
    assert [each.dtype for each in states] == [np.uint8, np.uint8]
    context = RecordedBatch.stack([reply.recorded for reply in replies if reply.recorded], 64).context
    assert context is not None
    assert context.states.dtype == torch.bfloat16
    for index, each in enumerate(states):
        kept = context.states[index, : len(each)].contiguous().view(torch.uint8).numpy()
        np.testing.assert_array_equal(kept, each)
    policy.record(None)
    assert policy.act([request(1)])[0].recorded is None
