"""LIBERO's suites are LIBERO's, and each protocol holds the numbers of the evaluator that it is named after."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlarig.benchmarks.libero.suites import instruction
from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Camera
from vlarig.envs.errors import VlarigError
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.runtimes.runtime import find_runtime
from vlarig.envs.tabletop.robot import TABLETOP_PANDA

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}


@pytest.fixture(scope="module")
def upstream() -> Path:
    """LIBERO's own folder ``libero/libero/benchmark``, as it is installed in the runtime; nothing of it is imported."""
    try:
        runtime = find_runtime("libero")
    except VlarigError as error:
        pytest.skip(f"LIBERO is not installed here: {error}")
    code = "import importlib.util; print(importlib.util.find_spec('libero').submodule_search_locations[0])"
    found = subprocess.run([runtime.python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()) / "libero" / "benchmark"


# Tasks.


@pytest.mark.parametrize(("name", "tasks"), SUITES.items())
def test_a_suite_has_its_tasks_with_fifty_initial_states(name: str, tasks: int) -> None:
    suite = load_suite(name)
    assert len(suite.tasks) == len({task.name for task in suite.tasks}) == tasks
    assert {task.initial_states for task in suite.tasks} == {tuple(range(50))}
    assert (suite.runtime, suite.assets, suite.embodiment.name) == ("libero", ("libero",), "libero_panda")


def test_the_tasks_are_those_of_hf_libero_0_1_4() -> None:
    names = {name: [task.name for task in load_suite(name).tasks] for name in SUITES}
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    assert digest == "65142e059c8c2961ae942c9df195a4c4416d781aa32aa2f94ea609e86b627e35"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("turn_on_the_stove", "turn on the stove"),
        ("KITCHEN_SCENE10_put_the_black_bowl_in_the_top_drawer_of_the_cabinet", "put the black bowl in the top drawer of the cabinet"),
        ("KITCHEN_SCENE1_open_the_bottom_drawer_of_the_cabinet", "open the bottom drawer of the cabinet"),
        ("LIVING_ROOM_SCENE5_put_the_red_mug_on_the_left_plate", "put the red mug on the left plate"),
    ],
)  # fmt: skip
def test_an_instruction_is_the_words_of_the_name(task: str, words: str) -> None:
    assert instruction(task) == words


def test_an_episode_tells_the_adapter_its_instruction() -> None:
    suite = load_suite("libero_90")
    (episode,) = suite.episodes(["STUDY_SCENE4_pick_up_the_book_on_the_right_and_place_it_on_the_cabinet_shelf"], per_task=1)
    assert episode.payload == {"instruction": "pick up the book on the right and place it on the cabinet shelf"}
    assert episode.key.startswith("libero_90/starvla@1/STUDY_SCENE4_")


def test_names_and_order_are_upstreams(upstream: Path) -> None:
    (assigned,) = (
        node.value
        for node in ast.parse((upstream / "libero_suite_task_map.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    )
    tasks = ast.literal_eval(assigned)
    assert {name: [task.name for task in load_suite(name).tasks] for name in SUITES} == {name: tasks[name] for name in SUITES}


def test_instructions_are_upstreams(upstream: Path) -> None:
    (function,) = (
        node
        for node in ast.parse((upstream / "__init__.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "grab_language_from_filename"
    )
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), "upstream", "exec"), scope)
    tasks = [task.name for name in SUITES for task in load_suite(name).tasks]
    assert [instruction(task) for task in tasks] == [scope[function.name](f"{task}.bddl") for task in tasks]


# Protocols.

LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


def both(**size: Any) -> tuple[Camera, Camera]:
    return (Camera("ego", mirror=True, **size), Camera("cam_left_wrist", mirror=True, **size))


@pytest.mark.parametrize(
    ("protocol", "n_action_steps", "gripper", "cameras"),
    [
        ("starvla", 8, "binary", both(height=224, width=224, drawn=(256, 256), resize="pil_bilinear")),
        ("qwen-vla", 16, "binary", both(height=224, width=224, drawn=(256, 256), resize="pil_bilinear")),
        ("openvla-oft", 8, "sign", both(height=224, width=224, drawn=(256, 256), resize="jpeg_lanczos3", crop=0.9)),
        ("openpi", 5, "as_given", both(height=224, width=224, drawn=(256, 256), resize="pil_bilinear")),
        ("lerobot", 10, "as_given", both(height=360, width=360)),
    ],
)
@pytest.mark.parametrize("name", SUITES)
def test_a_protocol_holds_its_evaluators_numbers(
    name: str, protocol: str, n_action_steps: int, gripper: str, cameras: tuple[Camera, Camera]
) -> None:
    found = load_suite(name).protocol(protocol)
    assert (found.n_action_steps, found.gripper, found.cameras) == (n_action_steps, gripper, cameras)
    limit = 280 if (name, protocol) == ("libero_spatial", "lerobot") else LIMITS[name]
    assert (found.step_limit, found.limit_unit) == (limit, "steps")
    assert (found.wait_steps, found.wait_action) == (10, (0, 0, 0, 0, 0, 0, -1))
    assert (found.success_rule, found.stop_on_success, found.version) == ("first", True, 1)


@pytest.mark.parametrize("name", SUITES)
def test_starvla_is_the_default(name: str) -> None:
    names = [protocol.name for protocol in load_suite(name).protocols]
    assert names == ["starvla", "qwen-vla", "openvla-oft", "openpi", "lerobot"]


@pytest.mark.parametrize("name", SUITES)
def test_the_papers_setting_is_starvlas_evaluation_with_whole_chunks_of_16(name: str) -> None:
    suite = load_suite(name)
    assert suite.protocol("qwen-vla") == replace(suite.protocol("starvla"), name="qwen-vla", n_action_steps=16)
    assert suite.protocol("starvla").n_action_steps == 8


# The robot.


def test_the_robot_is_driven_like_the_embedded_suites_and_names_liberos_cameras() -> None:
    assert LIBERO_PANDA.channels == TABLETOP_PANDA.channels
    assert [channel.gripper for channel in LIBERO_PANDA.channels][-1] == "+1 closes, -1 opens"
    assert (LIBERO_PANDA.action_size, len(LIBERO_PANDA.state_layout), LIBERO_PANDA.control_frequency) == (7, 8, 20.0)
    assert LIBERO_PANDA.cameras == {"ego": "agentview", "cam_left_wrist": "robot0_eye_in_hand"}
    assert (LIBERO_PANDA.robot_tag, LIBERO_PANDA.arms, LIBERO_PANDA.statistics_key) == ("Franka Panda", "single arm", "libero")
