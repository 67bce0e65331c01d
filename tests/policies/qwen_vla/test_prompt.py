"""The prompts of every embodiment, letter by letter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.robocasa.robot import ROBOCASA_GR1
from vlarig.envs.robotwin.robot import ROBOTWIN_ALOHA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.envs.vlnce.robot import VLNCE_R2R, VLNCE_RXR
from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import embodiment_named, known_embodiments
from vlarig.policies.qwen_vla.embodiments import (
    AIRBOT_MMK2,
    CAR,
    GR1_EEF,
    LANGUAGE_ACTION,
    MOBILE_ALOHA_EEF,
    REAL_HUMAN,
    TABLE_2,
    TIENKUNG_HAND,
)
from vlarig.policies.qwen_vla.named import chunk_steps
from vlarig.policies.qwen_vla.prompt import VIEW_TAGS, chat_text, embodiment_prompt, frequency_words, view_tokens

GOLDEN = Path(__file__).parent / "golden"

#: Benchmark to the robot that plays it: those of our suites.
ROBOTS = {
    "tabletop": TABLETOP_PANDA,
    "LIBERO": LIBERO_PANDA,
    "SimplerEnv": WIDOWX_BRIDGE,
    "RoboCasa-GR1": ROBOCASA_GR1,
    "RoboTwin 2.0": ROBOTWIN_ALOHA,
    "DOMINO": ROBOTWIN_ALOHA,
    "R2R": VLNCE_R2R,
    "RxR": VLNCE_RXR,
}

#: An instruction as the benchmark gives it, and the steps that the paper predicts (16 actions, 8 waypoints: section 4.1).
TASKS = {
    "tabletop": ("put the red cube in the white tray", 16),
    "LIBERO": ("pick up the alphabet soup and place it in the basket", 16),
    "SimplerEnv": ("put the spoon on the towel", 16),
    "RoboCasa-GR1": ("unlocked_waist: pick the cup, place it in the drawer and close it.", 16),
    "RoboTwin 2.0": ("Move red block to the center, then place green block on the red block.", 16),
    "DOMINO": ("Catch the sliding shoe and set it on the mat.", 16),
    "R2R": ("Walk past the sofa and stop in the doorway. ", 8),
    "RxR": ("You are facing a wall.  Turn around,\nand exit the room. Stop next to the stairs.", 8),
}


def sequence(embodiment: Embodiment, instruction: str, chunk_size: int, history: int = 1) -> str:
    """The whole sequence through all cameras, with two places for each image."""
    views = [(tag, 2) for tag in embodiment.cameras for _ in range(history)]
    return chat_text(embodiment_prompt(embodiment, instruction, chunk_size), views)


def test_table_2_golden() -> None:
    prompts = [f"== {each.name}\n{sequence(each, 'pick up the bowl', 16)}" for each in TABLE_2]
    assert "\n".join(prompts) == (GOLDEN / "table_2.txt").read_text(encoding="utf-8")


def test_benchmarks_golden() -> None:
    assert TASKS.keys() == ROBOTS.keys()
    prompts = [f"== {name}\n{sequence(ROBOTS[name], *task, history=2 if task[1] == 8 else 1)}" for name, task in TASKS.items()]
    assert "\n".join(prompts) == (GOLDEN / "benchmarks.txt").read_text(encoding="utf-8")


def test_no_two_action_types_share_a_prompt() -> None:
    conventions = (*TABLE_2, *LANGUAGE_ACTION, VLNCE_R2R, CAR)
    assert len({embodiment_prompt(each, "pick up the bowl", 16) for each in conventions}) == len(conventions)
    assert "Mobile ALOHA (joint control) with dual arms, and mobile base." in embodiment_prompt(ROBOTWIN_ALOHA, "wave", 16)


def test_the_six_arms_of_the_language_action_data_have_their_joints_and_no_images() -> None:
    """Section 3.2.3 names them in this order, and 50 Hz."""
    assert [(each.robot_tag, each.action_size) for each in LANGUAGE_ACTION] == [
        ("Franka Panda (joint control)", 8),
        ("UR10e", 7),
        ("UR5e", 7),
        ("Kinova Gen3", 8),
        ("TM12", 7),
        ("xArm7", 8),
    ]
    assert sequence(LANGUAGE_ACTION[1], "push the box", 16) == (
        "<|im_start|>user\nThe robot is UR10e with single arm. The control frequency is 50 Hz. Please predict the next 16 control "
        "actions to execute the following task: push the box.<|im_end|>\n<|im_start|>assistant\n"
    )
    for each in LANGUAGE_ACTION:
        assert {channel.kind for channel in each.channels} == {"absolute"}
        assert each.channels[-1].name == "gripper"


def test_a_car_is_asked_for_poses_in_its_own_frame() -> None:
    assert embodiment_prompt(CAR, "turn left at the crossing", 8) == (
        "The robot is car with mobile base. The navigation convention is (x, y, heading) per waypoint in the ground plane. "
        "Please predict the next 8 waypoints to execute the following task: turn left at the crossing."
    )
    assert {(channel.kind, channel.frame) for channel in CAR.channels} == {("absolute", "car")}
    assert chunk_steps(CAR, 16) == 8  # four seconds at 2 Hz


@pytest.mark.parametrize(("robot", "before"), [(TABLETOP_PANDA, "is 20 Hz. "), (CAR, "in the ground plane. ")])
def test_the_task_family_is_a_sentence_of_its_own_where_it_is_given(robot: Embodiment, before: str) -> None:
    plain, stated = (embodiment_prompt(robot, "go on", 8, None, family) for family in (None, " trajectory \nprediction."))
    assert stated == plain.replace(before, f"{before}The task family is trajectory prediction. ")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("", "the task family is ''; name it or leave it out"),
        ("<|im_end|>", r"the task family holds '<\|im_end\|>', which looks like a control token"),
    ],
)
def test_a_task_family_that_cannot_be_said_is_refused(family: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        embodiment_prompt(TABLETOP_PANDA, "wave", 16, None, family)


def test_the_template_is_the_papers() -> None:
    robot = replace(TABLETOP_PANDA, robot_tag="{robot_tag}", control_frequency=2.0)
    assert embodiment_prompt(robot, "{ori_instruction}", 16) == (
        "The robot is {robot_tag} with single arm. The control frequency is 2 Hz. "
        "Please predict the next 16 control actions to execute the following task: {ori_instruction}."
    )


@pytest.mark.parametrize(
    ("waist", "mobile_base", "expected"),
    [
        (False, False, "with dual arms. The"),
        (True, False, "with dual arms, waist. The"),
        (False, True, "with dual arms, and mobile base. The"),
        (True, True, "with dual arms, waist, and mobile base. The"),
    ],
)
def test_each_modifier_is_independent(waist: bool, mobile_base: bool, expected: str) -> None:
    robot = replace(GR1_EEF, waist=waist, mobile_base=mobile_base)
    assert expected in embodiment_prompt(robot, "wave", 16)


@pytest.mark.parametrize(
    ("frequency", "words"), [(20.0, "20"), (250 / 15, "16.67"), (2.5, "2.5"), (100.0, "100"), (29.97, "29.97"), (0.5, "0.5")]
)
def test_frequencies(frequency: float, words: str) -> None:
    assert frequency_words(frequency) == words


@pytest.mark.parametrize("given", ["Open the drawer", "Open the drawer.", "  Open\tthe \n drawer ...  ", "Open the drawer . "])
def test_instructions_end_in_one_period(given: str) -> None:
    assert embodiment_prompt(TABLETOP_PANDA, given, 16).endswith(" task: Open the drawer.")


def test_the_state_precedes_the_instruction_as_in_the_papers_example() -> None:
    state = [34, 128, 67, 200, 55, 12, 88]
    prompt = embodiment_prompt(TABLETOP_PANDA, "pick up the bowl", 16, state)
    assert prompt.endswith("the following task: state: [34, 128, 67, 200, 55, 12, 88] pick up the bowl.")


@pytest.mark.parametrize("state", [[256], [-1], [1.5]])
def test_a_state_that_is_no_bin_is_refused(state: list[int]) -> None:
    with pytest.raises(PolicyError, match="expected whole numbers from 0 to 255"):
        embodiment_prompt(TABLETOP_PANDA, "wave", 16, state)


@pytest.mark.parametrize(
    ("instruction", "chunk_size", "message"),
    [
        (" . ", 16, "say in words what is to be done"),
        ("wave", 0, "requests 0 actions; expected 1 or more"),
        ("look at <|image_pad|>", 16, r"holds '<\|image_pad\|>', which looks like a control token"),
        ("wave\ud83d", 16, "give whole Unicode characters"),
    ],
)
def test_what_cannot_be_said_is_refused(instruction: str, chunk_size: int, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        embodiment_prompt(TABLETOP_PANDA, instruction, chunk_size)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(PolicyError, match="unknown view 'left'; views that have tokens are ego, cam_left_wrist"):
        chat_text("", [("left", 1)])


def test_every_camera_of_every_embodiment_has_tokens() -> None:
    for each in known_embodiments()[0].values():
        assert set(each.cameras) <= set(VIEW_TAGS), each.name
    assert len(set(view_tokens())) == 2 * len(VIEW_TAGS)


def test_action_sizes_follow_from_the_action_types_and_fit_the_models_channels() -> None:
    assert {each.name: each.action_size for each in TABLE_2} == {
        "widowx_bridge": 7,
        "google_robot": 7,
        "franka_eef": 7,
        "franka_joint": 8,
        "franka_dual_eef": 14,
        "franka_dual_joint": 16,
        "arx5_eef": 14,
        "gr1_eef": 14,
        "mobile_aloha_eef": 14,
        "mobile_aloha_joint": 14,
        "agibot_a2d_gripper": 16,
        "agibot_a2d_hand": 26,
        "galaxea_r1": 14,
        "airbot_mmk2": 36,
        "tienkung_gripper": 16,
        "tienkung_hand": 26,
        "real_human": 32,
    }
    assert (ROBOCASA_GR1.action_size, ROBOTWIN_ALOHA.action_size, VLNCE_R2R.action_size) == (29, 14, 3)
    assert all(each.action_size <= 64 for each in known_embodiments()[0].values())


def test_steps_are_laid_out_as_the_data_sets_have_them() -> None:
    names = [channel.name for channel in ROBOTWIN_ALOHA.channels]
    assert (names[0], names[6], names[7], names[13]) == ("left_joint_1", "left_gripper", "right_joint_1", "right_gripper")
    parts = [channel.name.rpartition("_joint_")[0] for channel in ROBOCASA_GR1.channels]
    assert parts == ["left"] * 7 + ["right"] * 7 + ["left_hand"] * 6 + ["right_hand"] * 6 + ["waist"] * 3
    assert [channel.name for channel in AIRBOT_MMK2.channels][12:24] == [f"left_hand_joint_{n}" for n in range(1, 13)]
    assert [channel.name for channel in TIENKUNG_HAND.channels][14] == "left_hand_joint_1"
    hand = [channel.name.removeprefix("left_") for channel in REAL_HUMAN.channels[:16]]
    assert hand == [channel.name.removeprefix("right_") for channel in REAL_HUMAN.channels[16:]]
    assert hand[:6] == ["wrist_x", "wrist_y", "wrist_z", "wrist_rotation_x", "wrist_rotation_y", "wrist_rotation_z"]


def test_embodiments_are_found_by_name() -> None:
    assert embodiment_named("widowx_bridge") is WIDOWX_BRIDGE
    assert all(name == each.name for name, each in known_embodiments()[0].items())
    with pytest.raises(PolicyError, match=r"unknown embodiment 'mobile_aloha'; did you mean mobile_aloha_"):
        embodiment_named("mobile_aloha")


def test_every_action_space_is_made() -> None:
    for each in known_embodiments()[0].values():
        space = each.action_space()
        assert (space.low < space.high).all(), each.name
    assert MOBILE_ALOHA_EEF.action_space().shape == (14,)
