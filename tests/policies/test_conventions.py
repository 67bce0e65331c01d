"""Conventions: every difference that changes what a number means is found and named, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy.env import TOY_POINT

from vlarig.envs.embodiments import Channel, Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import (
    differences,
    embodiment_from_data,
    embodiment_to_data,
    find_embodiment,
    known_embodiments,
    refuse_differences,
)


def with_channel(position: int, **changes: object) -> Embodiment:
    channels = list(LIBERO_PANDA.channels)
    channels[position] = replace(channels[position], **changes)
    return replace(LIBERO_PANDA, channels=tuple(channels))


def test_every_known_embodiment_survives_json() -> None:
    known, _ = known_embodiments()
    assert {"libero_panda", "tabletop_panda", "widowx_bridge"} <= set(known)
    for embodiment in known.values():
        assert embodiment_from_data(json.loads(json.dumps(embodiment_to_data(embodiment)))) == embodiment


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(LIBERO_PANDA, robot_tag="WidowX"), "the robot is WidowX for the policy and Franka Panda for the env"),
        (replace(LIBERO_PANDA, control_frequency=5.0), "the control frequency is 5 Hz for the policy and 20 Hz"),
        (replace(LIBERO_PANDA, arms="dual arms"), "arms is dual arms for the policy and single arm"),
        (replace(LIBERO_PANDA, waist=True), "the waist is controlled for the policy and absent"),
        (replace(LIBERO_PANDA, mobile_base=True), "the mobile base is controlled"),
        (replace(LIBERO_PANDA, channels=LIBERO_PANDA.channels[:6]), "the policy's actions are 6 numbers (x, y, z, rotation_x"),
        (with_channel(1, name="height"), "channel 1 of an action is height for the policy and y for the env"),
        (with_channel(0, unit="m"), "the unit of channel x is m for the policy and normalized"),
        (with_channel(0, kind="absolute"), "the kind of channel x is absolute"),
        (with_channel(2, frame="gripper"), "the frame of channel z is gripper for the policy and base"),
        (
            with_channel(3, rotation="euler_xyz"),
            "the rotation of channel rotation_x is euler_xyz for the policy and axis_angle",
        ),
        (with_channel(6, gripper="1 opens, 0 closes"), "the gripper convention of channel gripper is '1 opens, 0 closes'"),
        (replace(LIBERO_PANDA, cameras=LIBERO_PANDA.cameras | {"cam_right_wrist": "w"}), "needs the view cam_right_wrist and"),
        (replace(LIBERO_PANDA, state_layout=("joint_0",)), "reads the state as [joint_0] and the env gives [position_x,"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_difference_is_found_and_named(changed: Embodiment, says: str) -> None:
    (found,) = differences(changed, LIBERO_PANDA, reads_state=True)
    assert says in found
    with pytest.raises(PolicyError, match=r"'me'.*does not fit suite 'libero_goal'") as refused:
        refuse_differences("me", "libero_goal", changed, LIBERO_PANDA, reads_state=True)
    assert says in str(refused.value)


def test_names_bounds_statistics_and_views_to_spare_are_no_conventions() -> None:
    other = with_channel(0, low=-9.0, high=9.0)
    other = replace(other, name="mine", statistics_key="mine", cameras={"ego": "front"})
    assert differences(other, LIBERO_PANDA, reads_state=True) == []
    refuse_differences("me", "tabletop", LIBERO_PANDA, TABLETOP_PANDA, reads_state=False)


def test_the_state_counts_only_for_a_policy_that_reads_it() -> None:
    other = replace(LIBERO_PANDA, state_layout=("joint_0", "joint_1"))
    assert differences(other, LIBERO_PANDA, reads_state=False) == []
    assert len(differences(other, LIBERO_PANDA, reads_state=True)) == 1


def test_a_refusal_is_one_sentence_with_the_first_differences() -> None:
    with pytest.raises(PolicyError) as refused:
        refuse_differences("me", "simpler_widowx", LIBERO_PANDA, WIDOWX_BRIDGE, reads_state=True)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert "the robot is Franka Panda for the policy and WidowX for the env" in sentence
    assert sentence.endswith("; and 9 more")


def spoiled(**changes: object) -> dict:
    return embodiment_to_data(LIBERO_PANDA) | changes


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "this is no embodiment: Expected `object`, got `array`"),
        (spoiled(colour="red"), "Object contains unknown field `colour`"),
        ({key: value for key, value in spoiled().items() if key != "cameras"}, "Object missing required field `cameras`"),
        (spoiled(control_frequency="20"), "Expected `float`, got `str` - at `$.control_frequency`"),
        (spoiled(control_frequency=True), "Expected `float`, got `bool` - at `$.control_frequency`"),
        (spoiled(control_frequency=float("nan")), "control_frequency is nan, expected a finite number"),
        (spoiled(waist=0), "Expected `bool`, got `int` - at `$.waist`"),
        (spoiled(state_layout=[1]), "Expected `str`, got `int` - at `$.state_layout[0]`"),
        (spoiled(cameras={"ego": 3}), "Expected `str`, got `int` - at `$.cameras[...]`"),
        (spoiled(channels=[{"name": "x"}]), "Object missing required field `unit` - at `$.channels[0]`"),
        (spoiled(channels=[[]]), "Expected `object`, got `array` - at `$.channels[0]`"),
        (spoiled(channels=[{**spoiled()["channels"][0], "high": float("nan")}]), "channel 'x' goes from -1.0 to nan"),
        (spoiled(channels=[{**spoiled()["channels"][0], "colour": "red"}]), "unknown field `colour` - at `$.channels[0]`"),
        (spoiled(arms="three arms"), "arms is 'three arms'"),
        (spoiled(channels=spoiled()["channels"][:1] * 2), "repeat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_that_is_no_embodiment_is_refused_in_a_sentence(data: object, says: str) -> None:
    with pytest.raises(PolicyError) as refused:
        embodiment_from_data(data)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_robot_of_an_installed_suite_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_embodiment("toy_point") == TOY_POINT
    with pytest.raises(PolicyError, match="unknown embodiment 'toy_pont'; did you mean toy_point"):
        find_embodiment("toy_pont")
    (tmp_path / "broken.dist-info").mkdir()
    (tmp_path / "broken.dist-info" / "entry_points.txt").write_text("[vlarig.plugins]\nbroken = broken_plugin:PLUGIN\n")
    plugin = "from vlarig.envs.plugins import Plugin\nPLUGIN = Plugin(suites={'program': 'broken_program:SUITE'})\n"
    (tmp_path / "broken_plugin.py").write_text(plugin)
    (tmp_path / "broken_program.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_embodiment("toy_point") == TOY_POINT
    with pytest.raises(PolicyError, match="not checked: the broken suites program, see 'vlarig envs list'"):
        find_embodiment("nowhere")


def test_an_embodiment_is_found_by_name_or_in_a_file(tmp_path: Path) -> None:
    assert find_embodiment("libero_panda") == LIBERO_PANDA
    own = Embodiment("mine", "Arm", "single arm", 7.0, (Channel("x", "m", "delta", "base", -1, 1),), ("x",), {"ego": "c"}, "k")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(embodiment_to_data(own)))
    assert find_embodiment(str(path)) == own
    with pytest.raises(PolicyError, match="unknown embodiment 'libero_pand'; did you mean libero_panda"):
        find_embodiment("libero_pand")
    path.write_text("{")
    with pytest.raises(PolicyError, match=r"mine\.json cannot be read"):
        find_embodiment(str(path))
    path.write_text("{}")
    with pytest.raises(PolicyError, match=r"mine\.json: this is no embodiment: Object missing required field `name`"):
        find_embodiment(str(path))
