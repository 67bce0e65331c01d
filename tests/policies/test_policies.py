"""Policies by name, and the contract of the scripted ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy.env import TOY_POINT
from toy.policies import ImageReader

from vlarig.envs.api import Observation
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness import evaluate
from vlarig.policies.api import PolicyError, Request, policy_seed
from vlarig.policies.registry import check_members, load_policy
from vlarig.policies.scripted import Burst


def request(seed: int = 5, env: int = 0, key: str = "toy/standard@1/reach_red/base/0/0") -> Request:
    observation = Observation(images={}, state=np.zeros(3, np.float32), instruction="move the point to the red goal")
    return Request(env, key, 0, seed, observation, TOY_POINT, n_action_steps=8)


def test_seeds_are_the_same_for_ever_and_differ_by_run_episode_and_chunk() -> None:
    key = "tabletop/standard@1/stack/base/3/0"
    assert policy_seed(0, key, 0) == 17349961646386249539
    assert len({policy_seed(0, key, 0), policy_seed(1, key, 0), policy_seed(0, key, 1), policy_seed(0, key[:-1] + "1", 0)}) == 4


def test_random_actions_follow_from_the_request_alone() -> None:
    policy = load_policy("random")
    (alone,) = policy.act([request(5)])
    among = policy.act([request(1, env=1), request(5, env=2), request(9, env=3)])
    np.testing.assert_array_equal(alone.actions, among[1].actions)
    assert not np.array_equal(among[0].actions, among[2].actions)
    assert alone.actions.shape == (8, 3)
    assert (np.abs(alone.actions) <= 1).all()
    assert alone.actions.std() > 0.3


def test_still_stays_where_the_state_says_and_moves_by_nothing() -> None:
    first, *_ = TOY_POINT.channels
    robot = replace(TOY_POINT, channels=(replace(first, kind="absolute"), *TOY_POINT.channels[1:]))
    robot = replace(robot, state_layout=("elsewhere", first.name, "further"))
    state = np.array([1.0, 0.25, 3.0], np.float32)
    asked = request()
    (reply,) = load_policy("still").act([replace(asked, embodiment=robot, observation={**asked.observation, "state": state})])
    np.testing.assert_array_equal(reply.actions, np.tile(np.float32([0.25, 0.0, 0.0]), (8, 1)))


def test_zero_does_nothing() -> None:
    (reply,) = load_policy("zero").act([request()])
    assert reply.actions.shape == (8, 3)
    assert not reply.actions.any()


def test_the_expert_says_which_suites_it_can_play() -> None:
    with pytest.raises(PolicyError, match=r"suite 'toy' has no scripted expert; suites with one: .*tabletop"):
        load_policy("expert").check("toy", TOY_POINT)


def test_a_quarter_of_the_bursts_turn_the_gripper_round_for_as_long_as_they_last() -> None:
    rng, bursts, before = np.random.default_rng(0), [], None
    for _ in range(20_000):
        burst = Burst.sampled(before, TABLETOP_PANDA, rng)
        if burst.push.any() and not (before and before.left):
            bursts.append(burst)
        elif burst.push.any():
            assert burst.grip == bursts[-1].grip
        else:
            assert burst.grip == 1.0
        before = burst
    assert 0.2 < np.mean([burst.grip == -1.0 for burst in bursts]) < 0.3


def test_a_class_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_policy.py").write_text(
        "from vlarig.policies.api import Policy\n"
        "class Mine(Policy):\n"
        "    revision, horizon = '3', 4\n"
        "    def act(self, requests): return []\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_policy("my_own_policy:Mine").revision == "3"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("expret", "did you mean expert"),
        ("something else entirely", "known are: expert, random, still, zero"),
        ("toy.policies:Nothing", "module 'toy.policies' has no policy 'Nothing'"),
        ("toy.env:TOY_POINT", "has no policy 'TOY_POINT'"),
        ("no.such.module:Policy", "cannot be imported"),
    ],
)
def test_unknown_names_are_refused_with_an_offer(name: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        load_policy(name)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"horizon": 0}, r"has the horizon 0; expected a number of steps, or None"),
        ({"horizon": -3}, r"has the horizon -3; expected a number of steps"),
        ({"horizon": True}, r"has the horizon True; expected a number of steps"),
        ({"revision": 7}, r"has the revision 7; expected a str"),
        ({"needs": None}, r"has the needs None; expected a Needs"),
    ],
)
def test_members_that_are_no_policys_are_refused(members: dict[str, Any], says: str) -> None:
    class Mine(ImageReader):
        pass

    mine = Mine()
    vars(mine).update(members)
    with pytest.raises(PolicyError, match=says):
        check_members("mine", mine)


def test_an_object_that_lacks_a_member_is_refused_before_anything_starts(toy_home: Path) -> None:
    with pytest.raises(
        PolicyError,
        match=r"is of the class object, which is no subclass of vlarig.policies.api.Policy; write class object\(Policy\)",
    ):
        evaluate("toy", object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("gain", "0.5", 0.5),
        ("gain", "2", 2.0),
        ("steps", "4", 4),
        ("steps", "none", None),
        ("exact", "true", True),
        ("exact", "no", False),
        ("mode", "slow", "slow"),
        ("size", "2,3", (2, 3)),
        ("size", "[2, 3]", (2, 3)),
        ("views", "ego,wrist", ["ego", "wrist"]),
        ("weights", '{"ego": 0.5}', {"ego": 0.5}),
        ("either", "3", 3),
        ("either", "three", "three"),
        ("anything", "3", "3"),
        ("made", "3", "3"),
    ],
)
def test_an_option_comes_as_what_it_is_annotated_with(option: str, text: str, value: object) -> None:
    got = load_policy("toy.policies:Annotated", {option: text}).given[option]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("gain", "much", "float"),
        ("steps", "4.5", "int | None"),
        ("mode", "medium", "Literal['fast', 'slow']"),
        ("size", "2", "tuple[int, int]"),
        ("exact", "perhaps", "bool"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_a_sentence(option: str, text: str, expected: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load_policy("toy.policies:Annotated", {option: text})
    sentence = f"the option {option}='{text}' of the policy 'toy.policies:Annotated' does not fit; expected "
    assert str(refused.value).startswith(sentence)
    assert expected in str(refused.value).replace("typing.", "")
