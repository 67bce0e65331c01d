"""The SimplerEnv adapter's promises; runs under the Python of the ``simpler`` runtime."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transforms3d.euler import euler2mat

from vlarig.benchmarks.simpler.ood import SIMPLER_OOD
from vlarig.benchmarks.simpler.widowx import SIMPLER_WIDOWX
from vlarig.envs.api import Camera, Episode, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.simpler.env import BridgeEnv
from vlarig.envs.upstream import assets_variable

SPOON, CARROT, CUBES, EGGPLANT = (task.name for task in SIMPLER_WIDOWX.tasks)
CHUNKED = SIMPLER_WIDOWX.protocol("chunked")

BLIND = Needs(images=False)


def episode(task: str, initial_state: int) -> Episode:
    return SIMPLER_WIDOWX.episode(SIMPLER_WIDOWX.task(task), initial_state, 0, CHUNKED)


@pytest.fixture(scope="module")
def env() -> BridgeEnv:
    return BridgeEnv()


def test_things_are_described_where_the_image_shows_them(env: BridgeEnv) -> None:
    snapshot = env.open(episode(CUBES, 0), Needs(objects=True))
    image = snapshot.frames.views["ego"][-1].astype(int)
    green, yellow = (
        next(each for each in snapshot.objects["ego"] if each.name == f"{colour} block") for colour in ("green", "yellow")
    )
    for each, is_coloured in (
        (green, lambda red, green, blue: green > max(red, blue)),
        (yellow, lambda red, green, blue: red > blue + 20),
    ):
        left, top, right, bottom = each.box
        assert is_coloured(*image[round((top + bottom) / 2), round((left + right) / 2)])
        assert each.visible > 0.9
    assert {each.name: each.role for each in snapshot.objects["ego"]} == {"green block": "object", "yellow block": "goal"}


def test_upstreams_class_attributes_stay_as_they_are(env: BridgeEnv) -> None:
    env.open(episode(EGGPLANT, 0), Needs())
    from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv

    assert BaseDigitalTwinEnv._rgb_overlay_images == {}
    assert BaseDigitalTwinEnv._objects_to_remove_from_greenscreen == []


def test_tasks_of_a_scene_share_it(env: BridgeEnv) -> None:
    """SimplerEnv-OOD plays in SimplerEnv's scenes, with source and target changed for the stack."""
    env.open(episode(CUBES, 0), BLIND)
    scene = env.scene
    swapped = SIMPLER_OOD.episode(SIMPLER_OOD.task("StackYellow"), 0, 0, SIMPLER_OOD.protocols[0])
    before = env.privileged()
    env.open(swapped, BLIND)
    assert env.scene is scene
    np.testing.assert_array_equal(env.privileged()["pose/source"], before["pose/target"])


def test_scenes_that_are_left_behind_are_freed() -> None:
    env, sizes = BridgeEnv(), []
    for _ in range(4):
        for task in (CARROT, CUBES):
            env.open(episode(task, 0), Needs())
        gc.collect()
        sizes.append(resident_megabytes())
    assert sizes[-1] - sizes[1] < 20
    env.close()


def resident_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_the_state_is_the_hands_in_the_base_frame(env: BridgeEnv) -> None:
    """BridgeData's: forward, left, up; angles from a hand that points straight down; the gripper is open at first."""
    initial_state = env.open(episode(CARROT, 0), BLIND).state
    assert 0.2 < initial_state[0] < 0.4, "in front of the base"
    assert abs(initial_state[1]) < 0.05
    assert 0.05 < initial_state[2] < 0.3, "above it"
    assert np.abs(initial_state[3:6]).max() < 0.1
    assert initial_state[6] == 1.0
    steps = np.zeros((16, 7), dtype=np.float32)
    steps[:4, 1], steps[:4, 2] = 0.02, 0.01
    steps[8:12, 5] = 0.15  # when the hand is there: turned on its way, it would end elsewhere
    end = env.step_chunk(steps).snapshot.state
    np.testing.assert_allclose(end[:3] - initial_state[:3], [0.0, 0.08, 0.04], atol=0.005)
    np.testing.assert_allclose(end[3:6] - initial_state[3:6], [0.0, 0.0, 0.6], atol=0.03)
    assert end[6] < 0.1


def test_the_target_turns_as_the_step_says(env: BridgeEnv) -> None:
    """About the base's fixed axes, as the original benchmark does; mani-skill 3 reads the same numbers otherwise."""
    angles = np.array([0.3, -0.4, 0.5])
    found = {}
    for option in ("fixed_axes", "moving_axes", "maniskill3", "rotation_vector"):
        protocol = replace(CHUNKED, options=CHUNKED.options | {"rotation": option})
        env.open(replace(episode(CARROT, 0), protocol=protocol), BLIND)
        before = target_turn(env)
        env.step_chunk(np.float32([[0, 0, 0, *angles, 1]]))
        found[option] = target_turn(env) @ before.T
    np.testing.assert_allclose(found["fixed_axes"], euler2mat(*angles, axes="sxyz"), atol=1e-6)
    np.testing.assert_allclose(found["moving_axes"], euler2mat(*angles, axes="rxyz"), atol=1e-6)
    for one, other in (("fixed_axes", "moving_axes"), ("moving_axes", "maniskill3"), ("fixed_axes", "rotation_vector")):
        assert np.abs(found[one] - found[other]).max() > 0.02, (one, other)


@pytest.mark.parametrize("option", ["fixed_axes", "rotation_vector", "moving_axes", "maniskill3"])
def test_the_target_swings_as_in_the_original(env: BridgeEnv, option: str) -> None:
    """``ee_align2`` of the original's controller (pd_ee_pose.py@ef7a4d4), as it defines it: turned about where the hand is now."""
    import sapien

    protocol = replace(CHUNKED, options=CHUNKED.options | {"rotation": option})
    env.open(replace(episode(CARROT, 0), protocol=protocol), BLIND)
    step = np.float32([0.03, -0.02, 0.01, 0.1, -0.1, 0.2, 1])
    for _ in range(4):
        now = sapien.Pose(env.scene.base()[:3], env.scene.base()[3:]).inv() * sapien.Pose(
            env.scene.hand()[:3], env.scene.hand()[3:]
        )
        before = env.scene._target_pose().sp
        env.step_chunk(step[None])
        after = env.scene._target_pose().sp
        turn = sapien.Pose(q=(after * before.inv()).q)
        swung = sapien.Pose(now.p) * sapien.Pose(step[:3]) * turn * sapien.Pose(now.p).inv() * before
        expected = swung.p if option in ("fixed_axes", "rotation_vector") else before.p + step[:3]
        np.testing.assert_allclose(after.p, expected, atol=1e-6)
    assert np.linalg.norm(swung.p - before.p - step[:3]) > 1e-3, "the hand lags behind, so it matters"


def target_turn(env: BridgeEnv) -> np.ndarray:
    """The direction of the controller's target of the hand."""
    pose = env.scene.upstream.agent.controller.controllers["arm"]._target_pose
    return pose.to_transformation_matrix()[0, :3, :3].numpy()


def test_the_gripper_closes_below_a_half(env: BridgeEnv) -> None:
    for share, opens in ((0.6, True), (0.4, False)):
        env.open(episode(CARROT, 0), BLIND)
        steps = np.tile(np.float32([0, 0, 0, 0, 0, 0, share]), (6, 1))
        assert (env.step_chunk(steps).snapshot.state[6] > 0.9) == opens


@pytest.mark.parametrize(("task", "photograph"), [(SPOON, "bridge_real_eval_1.png"), (EGGPLANT, "bridge_sink.png")])
def test_the_photograph_lies_behind(env: BridgeEnv, task: str, photograph: str) -> None:
    """Upright and not mirrored: at the left and at the bottom, where nothing is, are the photograph's own pixels."""
    import cv2

    from vlarig.envs.simpler.upstream import assets_folder

    protocol = replace(CHUNKED, cameras=(Camera("ego", 480, 640),))
    image = env.open(replace(episode(task, 0), protocol=protocol), Needs()).frames.views["ego"][-1]
    folder = assets_folder() / "data" / "tasks" / "bridge_v2_real2sim_dataset" / "real_inpainting"
    behind = cv2.resize(cv2.cvtColor(cv2.imread(str(folder / photograph)), cv2.COLOR_BGR2RGB), (640, 480))
    differs = (image != behind).any(axis=-1)
    assert not differs[:, :150].any()
    assert not differs[400:].any()
    assert differs[:40].any(), "the robot reaches in from above"
    assert 0.04 < differs.mean() < 0.2, "robot and objects"


def test_memory_of_grasps_is_part_of_the_state(env: BridgeEnv) -> None:
    env.open(episode(CARROT, 0), BLIND)
    before = env.simulator_state()
    env._judge._grasps += 1
    assert not np.array_equal(env.simulator_state(), before)


def test_bad_episodes_are_named(env: BridgeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    good = episode(CARROT, 0)
    for change, message in (
        ({"rotation": "left"}, "the option 'rotation' of protocol 'chunked' is 'left', expected one of fixed_axes"),
        ({"predicates": "mine"}, "the option 'predicates' is 'mine', expected one of original, maniskill3"),
    ):
        bad = replace(good, protocol=replace(CHUNKED, options=CHUNKED.options | change))
        with pytest.raises(VlarigError, match=message):
            env.open(bad, BLIND)
    with pytest.raises(VlarigError, match="no Bridge scene 'Kitchen-v1'; expected one of PutCarrot"):
        env.open(replace(good, payload=good.payload | {"scene": "Kitchen-v1"}), BLIND)
    small = replace(CHUNKED, cameras=(Camera("ego", 100, 100),))
    with pytest.raises(VlarigError, match="requested in 100 x 100, and its photograph has 480 x 640"):
        env.open(replace(good, protocol=small), Needs())
    monkeypatch.setenv(assets_variable("simpler_bridge"), "/nowhere")
    from vlarig.envs.simpler.upstream import assets_folder

    with pytest.raises(VlarigError, match="'/nowhere', expected a folder with data/tasks"):
        assets_folder()
    env.open(good, BLIND)
    assert env.step_chunk(np.zeros((1, 7))).steps, "the env still works"
