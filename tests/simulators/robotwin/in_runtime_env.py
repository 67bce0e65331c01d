"""The RoboTwin adapter's promises; runs under the Python of the ``robotwin`` runtime."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import sapien
from loading import loaded

from vlarig.benchmarks.robotwin.suites import ROBOTWIN_EASY, ROBOTWIN_HARD
from vlarig.benchmarks.robotwin.tasks import STEP_LIMITS
from vlarig.benchmarks.suite import Suite
from vlarig.envs.api import Camera, Episode, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.robotwin import env as adapter
from vlarig.envs.robotwin import planner, upstream
from vlarig.envs.robotwin.camera import SharedCamera
from vlarig.envs.robotwin.control import Drives
from vlarig.envs.robotwin.env import RobotwinEnv
from vlarig.envs.robotwin.evaluator import RobotwinEvaluator

BLIND = Needs(images=False)

#: What the expert says of a scene of two blocks (envs/stack_blocks_two.py, ``play_once``).
FOUND = {
    "info": {"{A}": "red block", "{B}": "green block", "{a}": "left", "{b}": "right"},
    "kept": {"last_gripper": {"arm": "right"}},
}

#: Tasks whose objects are published as meshes of parts alone, and those whose proxies do not come to rest.
NO_PROXIES = {"lift_pot", "move_can_pot", "open_laptop", "open_microwave", "put_object_cabinet", "turn_switch"}
RESTLESS = {"beat_block_hammer", "dump_bin_bigbin"}


def episode(
    task: str = "stack_blocks_two", seed: int = 100_000, protocol: str = "robotwin", suite: Suite = ROBOTWIN_EASY, **more: Any
) -> Episode:
    made = suite.episode(suite.task(task), seed, 0, suite.protocol(protocol))
    return replace(made, payload={**made.payload, **more})


@pytest.fixture(scope="module")
def env() -> RobotwinEnv:
    return RobotwinEnv()


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours alone, a twentieth of a frame's time."""
    monkeypatch.setenv(upstream.SHADER_VARIABLE, "trivial")


def hold(env: RobotwinEnv, steps: int) -> np.ndarray:
    return np.tile(env.state(), (steps, 1))


def test_instructions_are_upstreams_and_a_function_of_the_key(env: RobotwinEnv) -> None:
    with (
        upstream.upstream.assets_folder("robotwin_source") / "description/task_instruction/stack_blocks_two.json"
    ).open() as file:
        templates = json.load(file)
    words: dict[str, list[str]] = {}
    for kind, protocol in (("unseen", "robotwin"), ("seen", "seen")):
        filled = set()
        for text in templates[kind]:
            for name, value in FOUND["info"].items():
                text = text.replace(name, f"the {value} arm" if name.islower() else value)
            filled.add(text)
        asked = [episode(seed=seed, protocol=protocol, **FOUND) for seed in (*range(100_000, 100_006), 100_000)]
        words[kind] = [env.open(each, BLIND).instruction for each in asked]
        assert set(words[kind]) <= filled
        assert words[kind][0] == words[kind][-1]
        assert len(set(words[kind])) > 2
    assert not set(words["seen"]) & set(words["unseen"])


def test_an_instruction_is_the_one_that_upstreams_evaluator_takes(env: RobotwinEnv) -> None:
    """Its own lines (script/eval_policy.py, ``eval_policy``), from the generator as the episode seeds it."""
    begun = episode(**FOUND)
    words = env.open(begun, BLIND).instruction
    from generate_episode_instructions import generate_episode_descriptions

    random.seed(begun.seed)
    env.set_up(begun)
    results = generate_episode_descriptions(begun.task, [FOUND["info"]], 100)
    assert words == np.random.choice(results[0]["unseen"])


def test_what_was_not_prepared_is_rehearsed_and_begins_alike(env: RobotwinEnv) -> None:
    prepared = env.prepare(episode())
    assert prepared == {**FOUND, "planner": "mplib"}
    assert env.open(episode(), BLIND).state_digest == env.open(episode(**prepared), BLIND).state_digest


@pytest.mark.usefixtures("flat")
def test_nothing_is_rendered_between_frames(env: RobotwinEnv) -> None:
    env.open(episode(**FOUND), Needs())
    with (
        patch.object(SharedCamera, "image", autospec=True, side_effect=SharedCamera.image) as images,
        patch.object(sapien.Scene, "update_render", autospec=True, side_effect=sapien.Scene.update_render) as updates,
    ):
        env.step_chunk(hold(env, 16))
    assert (images.call_count, updates.call_count) == (3, 3)


def test_a_wrist_camera_moves_with_its_arm_and_the_head_does_not(env: RobotwinEnv) -> None:
    before = env.open(episode(**FOUND), Needs()).frames.views
    moved = hold(env, 16) + np.linspace(0, 1, 16)[:, None] * np.eye(14)[0] * 0.5
    after = env.step_chunk(moved).snapshot.frames.views
    changed = {view: np.mean(np.any(before[view][-1] != after[view][-1], axis=-1)) for view in before}
    assert changed["cam_left_wrist"] > 0.5 > 0.2 > changed["ego"]
    assert changed["cam_right_wrist"] < 0.05


def test_another_size_than_upstreams_is_refused(env: RobotwinEnv) -> None:
    env.open(episode(**FOUND), BLIND)
    with pytest.raises(VlarigError, match=r"'ego' was requested in 224 x 224, and upstream's camera has 240 x 320"):
        env.render_view(Camera("ego", 224, 224))


def test_the_randomised_scenes_differ_by_seed_in_light_clutter_and_texture(env: RobotwinEnv) -> None:
    seen = [env.open(episode(seed=seed, suite=ROBOTWIN_HARD, **FOUND), Needs()) for seed in (100_000, 100_001)]
    clean = env.open(episode(**FOUND), Needs())
    colours = [each.frames.views["ego"][-1].mean(axis=(0, 1)) for each in (*seen, clean)]
    assert all(np.abs(one - other).max() > 5 for one, other in ((colours[0], colours[1]), (colours[0], colours[2])))
    env.open(episode(seed=100_000, suite=ROBOTWIN_HARD, **FOUND), BLIND)
    assert len(env.task.scene.get_all_actors()) > 8
    assert -0.03 <= env.task.table_z_bias < 0
    assert env.task.table_texture.startswith("unseen/")


def test_no_image_shows_what_the_table_of_reflections_holds() -> None:
    """The env has a black texel in its place, and so has upstream's loop where both are compared; upstream's own scene computes it."""
    begun = episode(suite=ROBOTWIN_HARD, **FOUND)
    loop = RobotwinEvaluator(begun)
    loop.reset(begun)
    without = loop.observation()
    loop.begin_again(begun)
    for view, image in loop.observation().items():
        np.testing.assert_array_equal(without[view], image)


@pytest.mark.usefixtures("flat")
def test_flickering_lights_do_not_depend_on_frames(env: RobotwinEnv) -> None:
    """Upstream samples them anew whenever it looks; here each physics step does, and a frame more or less changes nothing."""
    begun = episode(suite=ROBOTWIN_HARD, **FOUND)
    lights: list[np.ndarray] = []
    for needs in (Needs(images=False), Needs(every_frame=True)):
        env.open(begun, needs)
        before = env.task.scene.ambient_light
        env.task.crazy_random_light = True
        env.step_chunk(hold(env, 3))
        lights.append(np.array([*env.task.scene.ambient_light, *env.task.point_light_lst[0].color]))
        assert np.abs(lights[-1][:3] - before).max() > 0.01
    np.testing.assert_array_equal(lights[0], lights[1])


def test_missing_meshes_are_named_and_end_a_preparation(env: RobotwinEnv) -> None:
    with pytest.raises(
        VlarigError, match=r"'lift_pot' needs meshes that are not here.*run: vlarig assets fetch robotwin_assets"
    ):
        env.prepare(episode("lift_pot"))


def test_a_planner_that_fails_fails_the_seed_and_nothing_else(env: RobotwinEnv, caplog: pytest.LogCaptureFixture) -> None:
    with patch.object(planner.MplibPlanner, "plan_path", side_effect=RuntimeError("no path")):
        assert env.prepare(episode("click_bell")) is None
    assert "the expert gave up robotwin_easy/robotwin@1/click_bell" in caplog.text
    assert env.prepare(episode("click_bell")) is not None


def test_the_planner_reaches_a_pose_and_says_where_it_cannot(env: RobotwinEnv) -> None:
    env.open(episode(**FOUND), BLIND)
    robot = env.task.robot
    reached, joints = robot.get_left_ee_pose(), robot.left_entity.get_qpos()
    near = [reached[0] + 0.05, reached[1] + 0.05, reached[2] + 0.05, *reached[3:]]
    path = robot.left_plan_path(near)
    assert path["status"] == "Success"
    assert path["position"].shape == path["velocity"].shape
    assert path["position"].shape[1] == 6
    assert np.abs(np.diff(path["position"], axis=0)).max() < 0.05
    for row in path["position"]:
        env.task.robot.set_arm_joints(row, np.zeros(6), "left")
        env.task.scene.step()
    for _ in range(250):
        env.task.scene.step()
    assert np.linalg.norm(np.array(robot.get_left_ee_pose()[:3]) - near[:3]) < 0.01
    beyond = [
        [near[0] + dx, near[1] + dy, near[2] + dz, *near[3:]] for dx, dy, dz in ((0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0))
    ]
    assert all(robot.left_plan_path(pose)["status"] != "Success" for pose in beyond)
    both = robot.left_plan_multi_path([near, [5.0, 5.0, 5.0, 1, 0, 0, 0]])
    assert list(both["status"]) == ["Success", "Failure"]
    assert len(joints) == 38


def test_the_expert_drives_the_robot_as_upstreams_own_code_does(env: RobotwinEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its grippers close slowly, which no action of a policy makes them do."""
    plan = env.rehearse(episode(task="stack_blocks_two")).plan
    monkeypatch.setattr(Drives, "take_over", lambda drives: None)
    assert np.array_equal(plan, env.rehearse(episode(task="stack_blocks_two")).plan)


def test_a_plan_is_the_experts_and_solves_the_episode(env: RobotwinEnv) -> None:
    begun = episode("click_bell")
    begun = replace(
        begun, protocol=replace(begun.protocol, n_action_steps=400), payload={**begun.payload, **env.prepare(begun)}
    )
    snapshot = env.open(begun, Needs(images=False, privileged=True))
    result = env.step_chunk(snapshot.privileged["plan"])
    assert result.steps[-1].success_at_end
    assert result.snapshot.privileged == {}


@pytest.mark.parametrize("task", STEP_LIMITS)
def test_every_task_loads_and_steps(env: RobotwinEnv, task: str) -> None:
    """Or does not, for a reason that is known: proxies do not serve."""
    made = loaded(env, (episode(task, seed) for seed in range(100_000, 100_010)), NO_PROXIES, RESTLESS)
    if made is not None:
        before = adapter.everything(made)
        made.take_action(np.full(14, 0.05))
        assert any(not np.array_equal(one, other) for one, other in zip(before, adapter.everything(made)))
