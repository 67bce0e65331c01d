"""Zero-shot transfer: the env's prompt, the statistics of a robot that the checkpoint knows, and no silent change of convention."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from trained_policy import trained_bundle

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.qwen_vla.checkpoint import LoadedPolicy
from vlarig.policies.qwen_vla.embodiments import GOOGLE_ROBOT
from vlarig.policies.qwen_vla.inputs import Prompted
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.registry import load_policy


def request(embodiment: Embodiment) -> Request:
    observation = Observation(
        images={tag: np.full((1, 64, 64, 3), 90, np.uint8) for tag in embodiment.cameras},
        state=np.zeros(len(embodiment.state_layout), np.float32),
        instruction="open the drawer",
    )
    return Request(0, "key", 0, 5, observation, embodiment, 8)


def seen(policy: QwenVlaPolicy, embodiment: Embodiment, monkeypatch: pytest.MonkeyPatch) -> Prompted:
    """What the model is shown of a request of that robot."""
    samples: list[Prompted] = []
    make = policy._inputs.build
    monkeypatch.setattr(policy._inputs, "build", lambda batch, device: (samples.extend(batch), make(batch, device))[1])
    policy.act([request(embodiment)])
    return samples[0]


def with_config(bundle: LoadedPolicy, **fields: Any) -> LoadedPolicy:
    config = dataclasses.replace(bundle.description.config, **fields)
    return LoadedPolicy(dataclasses.replace(bundle.description, config=config), build(config, 0), bundle.tokenizer, "in memory")


def test_the_prompt_is_the_envs_and_the_statistics_are_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = QwenVlaPolicy.of(trained_bundle(), zero_shot="widowx_bridge")
    policy.check("drawers", GOOGLE_ROBOT)
    (reply,) = policy.act([request(GOOGLE_ROBOT)])
    space = WIDOWX_BRIDGE.action_space()
    assert (reply.actions >= space.low).all()
    assert (reply.actions <= space.high).all()
    sample = seen(policy, GOOGLE_ROBOT, monkeypatch)
    assert sample.text == (
        "The robot is Google Robot with single arm, and mobile base. The control frequency is 3 Hz. "
        "Please predict the next 16 control actions to execute the following task: open the drawer."
    )
    assert [tag for tag, _ in sample.views] == ["ego"]


def test_without_the_option_the_robot_is_refused_and_the_option_is_named() -> None:
    with pytest.raises(PolicyError, match=r"was not trained on 'google_robot'.* the option zero_shot=NAME plays it with"):
        QwenVlaPolicy.of(trained_bundle()).check("drawers", GOOGLE_ROBOT)


def test_a_view_that_the_source_has_not_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = dataclasses.replace(GOOGLE_ROBOT, cameras={"cam_left_wrist": "hand", "ego": "image"})
    policy = QwenVlaPolicy.of(trained_bundle(), zero_shot="widowx_bridge")
    assert [tag for tag, _ in seen(policy, robot, monkeypatch).views] == ["ego"]


def test_weights_of_the_source_are_used_where_each_robot_has_its_own() -> None:
    sizes = (("libero_panda", 7), ("widowx_bridge", 7))
    bundle = with_config(trained_bundle(), projection="concat", projection_embodiments=sizes)
    policy = QwenVlaPolicy.of(bundle, zero_shot="widowx_bridge")
    policy.record({})
    (reply,) = policy.act([request(GOOGLE_ROBOT)])
    assert int(reply.recorded.arrays["embodiment"]) == 1


GRIPPER = dataclasses.replace(GOOGLE_ROBOT.channels[-1], gripper="0 opens, 1 closes")


@pytest.mark.parametrize(
    ("robot", "sentence"),
    [
        (TABLETOP_PANDA, r"the unit of channel x is m for the policy and normalized for the env; and \d+ more\. Its statistics are"),
        (
            dataclasses.replace(GOOGLE_ROBOT, channels=(*GOOGLE_ROBOT.channels[:-1], GRIPPER)),
            "the gripper convention of channel gripper is '1 opens, 0 closes' for the policy and '0 opens, 1 closes' for the env. Its",
        ),
        (dataclasses.replace(GOOGLE_ROBOT, channels=GOOGLE_ROBOT.channels[:6]), "the policy's actions are 7 numbers"),
        (dataclasses.replace(GOOGLE_ROBOT, cameras={"cam_left_wrist": "hand"}), "the policy sees ego and the env has cam_left_wrist"),
        (dataclasses.replace(GOOGLE_ROBOT, cameras={}), "the policy sees ego and the env has no view"),
    ],
)  # fmt: skip
def test_numbers_that_mean_something_else_are_refused(robot: Embodiment, sentence: str) -> None:
    bundle = trained_bundle()
    only = dataclasses.replace(bundle.description, embodiments={"widowx_bridge": WIDOWX_BRIDGE})
    policy = QwenVlaPolicy.of(dataclasses.replace(bundle, description=only), zero_shot="widowx_bridge")
    with pytest.raises(
        PolicyError, match=rf"zero_shot=widowx_bridge does not fit suite 'drawers' \({robot.name}\): .*{sentence}"
    ):
        policy.check("drawers", robot)


def test_the_state_has_to_be_the_sources_where_it_is_read() -> None:
    bundle = with_config(trained_bundle(), state="prompt")
    policy = QwenVlaPolicy.of(bundle, zero_shot="libero_panda")
    robot = dataclasses.replace(LIBERO_PANDA, name="slow", control_frequency=5.0)
    policy.check("slowly", robot)
    with pytest.raises(PolicyError, match=r"the policy reads the state as \[position_x, .* and the env gives \[joint_1\]"):
        policy.check("slowly", dataclasses.replace(robot, state_layout=("joint_1",)))


def test_a_robot_that_the_checkpoint_knows_is_not_zero_shot() -> None:
    policy = QwenVlaPolicy.of(trained_bundle(), zero_shot="widowx_bridge")
    with pytest.raises(PolicyError, match="was trained on 'libero_panda', which 'libero_goal' is played with; play it without"):
        policy.check("libero_goal", LIBERO_PANDA)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("widowx", "zero_shot=widowx is no embodiment of the checkpoint; did you mean widowx_bridge")],
)
def test_a_source_that_the_checkpoint_has_not_is_refused(source: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        QwenVlaPolicy.of(trained_bundle(), zero_shot=source)
    with pytest.raises(PolicyError, match="random weights know none, and play any robot without it"):
        load_policy("qwen-vla:tiny", {"zero_shot": source})


def test_it_is_said_beside_every_number() -> None:
    assert QwenVlaPolicy.of(trained_bundle()).table_note == ""
    note = QwenVlaPolicy.of(trained_bundle(), zero_shot="widowx_bridge").table_note
    assert note == "zero-shot: prompt of the suite's own robot, statistics of widowx_bridge"
