"""Qwen-VLA behind the policy API: answers follow from the request alone, in the env's own units, for any robot in one batch."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trained_policy import trained_bundle
from transformers.models.qwen3_5 import modeling_qwen3_5

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import LIBERO_PANDA, TABLETOP_PANDA, WIDOWX_BRIDGE, Embodiment
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.qwen_vla.acceleration import accelerations, check_acceleration, plain
from vlarig.policies.qwen_vla.checkpoint import Bundle, save_checkpoint
from vlarig.policies.qwen_vla.embodiments import EMBODIMENTS
from vlarig.policies.qwen_vla.flow import SdeNoise, Transitions, recompute_log_probability
from vlarig.policies.qwen_vla.model import Context, build
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy, Recording
from vlarig.policies.registry import load_policy

NAVIGATOR = next(each for each in EMBODIMENTS.values() if each.arms == "none")


def request(seed: int, embodiment: Embodiment = TABLETOP_PANDA, frames: int = 1, views: int = 2, **changes: Any) -> Request:
    rng = np.random.default_rng(seed)
    tags = list(embodiment.cameras)[:views]
    observation = Observation(
        images={tag: rng.integers(0, 256, (frames, 96, 128, 3), np.uint8) for tag in tags},
        state=rng.normal(size=len(embodiment.state_layout)).astype(np.float32),
        instruction=changes.pop("instruction", "put the red cube in the tray"),
    )
    fields = {"slot": 0, "key": f"suite/p@1/task/base/{seed}/0", "chunk": 0, "seed": 2**63 + seed}
    return Request(**fields | changes, observation=observation, embodiment=embodiment, execute=8)


@pytest.fixture(scope="module")
def policy() -> QwenVlaPolicy:
    return QwenVlaPolicy("tiny")


def test_an_answer_follows_from_the_request_alone(policy: QwenVlaPolicy) -> None:
    (alone,) = policy.act([request(1)])
    among = policy.act([request(2, instruction="stack the blue cube on the red one"), request(1, slot=5), request(3)])
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


def replace_seed(content: int, seed: int) -> Request:
    return dataclasses.replace(request(content), seed=seed)


def test_pictures_matter(policy: QwenVlaPolicy) -> None:
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
        ({"device": "gpu7"}, r"device=gpu7 cannot be used here"),
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


def test_strict_refuses_another_precision() -> None:
    half = QwenVlaPolicy("tiny", dtype="bfloat16")
    assert np.isfinite(half.act([request(1)])[0].actions).all()
    with pytest.raises(PolicyError, match=r"--strict computes in float32 .* dtype=bfloat16"):
        half.make_strict()


def test_a_checkpoints_policy_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    bundle = trained_bundle()
    save_checkpoint(tmp_path / "saved", bundle)
    expected = QwenVlaPolicy.of(bundle).act([request(1, LIBERO_PANDA)])[0].actions
    np.testing.assert_array_equal(QwenVlaPolicy(str(tmp_path / "saved")).act([request(1, LIBERO_PANDA)])[0].actions, expected)


@pytest.mark.parametrize("state", ["prompt", "dit"])
def test_the_state_matters_where_the_model_reads_it(state: str) -> None:
    bundle = trained_bundle()
    size = 8 if state == "dit" else 0
    config = dataclasses.replace(bundle.description.config, state=state, state_size=size)
    description = dataclasses.replace(bundle.description, config=config)
    policy = QwenVlaPolicy.of(Bundle(description, build(config, 0), bundle.tokenizer, "in memory"))
    still, moved = request(1, LIBERO_PANDA), request(1, LIBERO_PANDA)
    moved.observation["state"] = moved.observation["state"] * 0
    assert np.abs(policy.act([still])[0].actions - policy.act([moved])[0].actions).max() > 1e-5
    with pytest.raises(PolicyError, match="reads the state, and the checkpoint has no statistics of the state"):
        policy.act([request(1, WIDOWX_BRIDGE)])


@pytest.mark.parametrize("noisy", ["one", "all"])
def test_recorded_answers_give_ratio_one_with_unchanged_weights(policy: QwenVlaPolicy, noisy: Any) -> None:
    sde = SdeNoise(noisy=noisy)
    policy.recording = Recording(sde)
    try:
        replies = policy.act([request(1), request(2, WIDOWX_BRIDGE, views=1), request(3, NAVIGATOR, frames=3, views=1)])
    finally:
        policy.recording = None
    for reply in replies:
        extras = {name: tensor[None] for name, tensor in reply.extras.items()}
        context = Context(
            extras["states"], torch.ones(extras["states"].shape[:2], dtype=torch.bool), extras["positions"].transpose(0, 1)
        )
        field = policy.model.velocity_field(context, extras["mask"])
        stored = Transitions(extras["before"], extras["after"], extras["step"])
        with torch.no_grad():
            again = recompute_log_probability(field, stored, extras["mask"], policy.options.steps, sde)
        assert abs(float((again - extras["log_probability"]).exp()) - 1) < 1e-4
        assert np.isfinite(float(extras["value"]))


def test_values_are_asked_for_by_themselves(policy: QwenVlaPolicy) -> None:
    torch.nn.init.normal_(policy.model.value_head.readout.weight)
    values = policy.value([request(1), request(2)])
    assert values.shape == (2,)
    assert values[0] != values[1]


def test_faster_ways_are_compared_with_the_plain_one(monkeypatch: pytest.MonkeyPatch, policy: QwenVlaPolicy) -> None:
    assert check_acceleration(policy._probe, torch.float32) == 0
    right = modeling_qwen3_5.torch_chunk_gated_delta_rule

    def wrong(*args: Any, **kwargs: Any) -> Any:
        output, state = inspect.unwrap(right)(*args, **kwargs)
        return output.cumsum(1), state  # the layer's norm would hide a mere factor

    wrong.__wrapped__ = inspect.unwrap(right)  # type: ignore[attr-defined]
    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", wrong)
    with pytest.raises(PolicyError, match=r"differs from the plain one by .* of a chunk's range, more than 1e-04"):
        check_acceleration(policy._probe, torch.float32)
    with plain():
        assert modeling_qwen3_5.torch_chunk_gated_delta_rule is not wrong


def test_presets_play_every_robot(policy: QwenVlaPolicy) -> None:
    for embodiment in EMBODIMENTS.values():
        policy.check("any", embodiment)


@pytest.mark.slow
def test_a_compiled_model_answers_as_the_plain_one(policy: QwenVlaPolicy) -> None:
    if not accelerations()[0].available:
        pytest.skip("no compiler for torch.compile on this machine")
    compiled = QwenVlaPolicy("tiny", compile="true")  # it compares itself when it is made
    requests = [request(1), request(2, LIBERO_PANDA, views=1), request(3, NAVIGATOR, frames=3, views=1)]
    for ours, plainly in zip(compiled.act(requests), policy.act(requests), strict=True):
        np.testing.assert_allclose(ours.actions, plainly.actions, atol=1e-4)
