"""The RoboCasa-GR1 adapter's promises; runs under the Python of the ``robocasa`` runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import mujoco
import numpy as np
import pytest

from vlarig.benchmarks.robocasa.suite import CLOSING, MOVING, ROBOCASA_GR1, ROBOCASA_GR1_GR00T
from vlarig.envs.api import Camera, Episode, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.robocasa.env import RobocasaEnv, RobocasaGr00tEnv, SharedCanvas
from vlarig.envs.robocasa.robot import GR00T_ORDER, STARVLA_ORDER
from vlarig.envs.robocasa.upstream import make_task, reset_task

BLIND = Needs(images=False)
TASK = "PosttrainPnPNovelFromPlateToPlateSplitA"

#: Joint angles at which both hands are beside the body, far from the table: shoulders turned back, elbows straight.
AWAY = {"shoulder_pitch": 0.6, "shoulder_roll": 0.4, "shoulder_yaw": 0.0, "elbow_pitch": -0.1}


def episode(task: str = TASK, number: int = 0, protocol: str = "robocasa", suite: Any = ROBOCASA_GR1) -> Episode:
    return suite.episode(suite.task(task), number, 0, suite.protocol(protocol))


@pytest.fixture(scope="module")
def env() -> RobocasaEnv:
    return RobocasaEnv()


def hold(env: RobocasaEnv, steps: int) -> np.ndarray:
    """Targets that leave the robot where it is."""
    flat = [env.data.qpos[env.task.sim.model.get_joint_qpos_addr(name)] for name in joints(env)]
    return np.tile(np.array(flat, np.float32), (steps, 1))


def joints(env: RobocasaEnv) -> list[str]:
    """Upstream's joints in the order of an action."""
    robot = env.task.robots[0]
    names = {"waist": [f"robot0_torso_waist_{axis}" for axis in ("yaw", "pitch", "roll")]}
    for side in ("left", "right"):
        names[f"{side}_arm"] = [name for name in robot.robot_joints if name.startswith(f"robot0_{side[0]}_")][:7]
        names[f"{side}_hand"] = [robot.gripper[side].joints[index] for index in (10, 8, 6, 4, 1, 0)]
    return [name for part in env.order for name in names[part]]


def set_joint(env: RobocasaEnv, name: str, value: Any) -> None:
    address = env.task.sim.model.get_joint_qpos_addr(name)
    env.data.qpos[address if np.isscalar(address) else slice(*address)] = value


def hands_away(env: RobocasaEnv) -> None:
    for name, value in AWAY.items():
        for side in "lr":
            set_joint(env, f"robot0_{side}_{name}", -value if name == "shoulder_roll" and side == "r" else value)


def put(env: RobocasaEnv, place: np.ndarray) -> None:
    """Put the object there, upright and at rest."""
    (joint,) = env.task.objects["obj"].joints
    set_joint(env, joint, [*place, 1, 0, 0, 0])
    env.data.qvel[:] = 0


def settled(env: RobocasaEnv) -> bool:
    """Whether the task is solved when everything has come to rest, by upstream's own check."""
    target = hold(env, 1)[0]
    for _ in range(12):
        env.advance(target)
    env.task.update_state()
    return bool(env.task._check_success())


def solve(env: RobocasaEnv) -> None:
    """Set the state that the instruction asks for."""
    task = env.task
    hands_away(env)
    height = -task.objects["obj"].bottom_offset[2]
    if "container" in task.objects:
        container = task.objects["container"]
        place = env.data.xpos[task.obj_body_id["container"]] + [0, 0, container.bottom_offset[2] + height + 0.02]
        if container.spawns:
            spawn = max(container.spawns, key=lambda each: env.data.geom(each.get("name")).xpos[2])
            place = env.data.geom(spawn.get("name")).xpos.copy()
        put(env, place)
        return
    (fixture,) = (getattr(task, name) for name in ("drawer", "microwave", "cabinet") if hasattr(task, name))
    fixture.set_door_state(min=0.0, max=0.0, env=task, rng=task.rng)
    task.sim.forward()
    task.update_state()
    origin, *ends = np.array(fixture.get_int_sites(relative=False))
    across, along, up = (end - origin for end in ends)
    put(env, origin + across / 2 + along / 2 + up * min(0.5, (height + 0.01) / np.linalg.norm(up)))


@pytest.mark.parametrize("task", [*CLOSING, *MOVING])
def test_each_task_is_solved_by_what_it_asks_for_and_not_at_its_start(env: RobocasaEnv, task: str) -> None:
    """Upstream's own check, on states that are set by hand; a few steps are played first."""
    first = env.open(episode(task), BLIND)
    assert first.instruction.startswith("unlocked_waist: pick")
    result = env.step_chunk(hold(env, 8))
    assert (len(result.steps), result.snapshot.outcome.first) == (8, False)
    solve(env)
    assert settled(env)


@pytest.mark.parametrize("wrong", ["hand near", "beside", "door open"])
def test_a_state_that_misses_a_condition_is_no_success(env: RobocasaEnv, wrong: str) -> None:
    env.open(episode(CLOSING[0] if wrong == "door open" else TASK), BLIND)
    solve(env)
    assert settled(env)
    if wrong == "beside":
        put(env, env.data.xpos[env.task.obj_body_id["container"]] + [0.2, 0.2, 0.1])
    elif wrong == "door open":
        env.task.drawer.set_door_state(min=0.5, max=0.5, env=env.task, rng=env.task.rng)
    else:
        env.data.qpos[:] = reached(env)
    assert not settled(env)


def reached(env: RobocasaEnv) -> np.ndarray:
    """The positions with the right hand a hand's breadth above the object, by steps along the grip site's Jacobian."""
    model, data = env.model, mujoco.MjData(env.model)
    data.qpos[:] = env.data.qpos
    site = env.task.robots[0].eef_site_id["right"]
    arm = [env.task.sim.model.get_joint_qvel_addr(name) for name in joints(env)[7:14]]
    addresses = [env.task.sim.model.get_joint_qpos_addr(name) for name in joints(env)[7:14]]
    jacobian = np.zeros((3, model.nv))
    for _ in range(200):
        mujoco.mj_forward(model, data)
        mujoco.mj_jacSite(model, data, jacobian, None, site)
        way = env.data.xpos[env.task.obj_body_id["obj"]] + [0, 0, 0.15] - data.site_xpos[site]
        data.qpos[addresses] += 0.2 * np.linalg.pinv(jacobian[:, arm], rcond=0.05) @ way
    return data.qpos


def test_initial_states_differ_and_each_repeats(env: RobocasaEnv) -> None:
    """Whatever was played before; twelve of fifty, whose seeds all differ (test_conventions.py)."""
    numbers = (*range(10), 17, 49)
    begun = {number: env.open(episode(number=number), BLIND) for number in numbers}
    assert len({each.state_digest for each in begun.values()}) == len(numbers)
    env.open(episode(MOVING[-1], 3), BLIND)
    for number in (49, 0, 17):
        assert env.open(episode(number=number), BLIND).state_digest == begun[number].state_digest
    assert len({each.instruction for each in begun.values()}) > 3


def test_upstreams_own_seed_does_not_repeat_a_reset_and_ours_does() -> None:
    made = make_task(TASK)
    states = [made.reset(seed=3)[0]["state.left_arm"] for _ in range(2)]
    assert not np.array_equal(*states)
    states = [reset_task(made, 3)["state.left_arm"] for _ in range(2)]
    np.testing.assert_array_equal(*states)
    made.close()


def test_the_state_has_the_joints_in_the_order_of_an_action(env: RobocasaEnv) -> None:
    env.open(episode(), BLIND)
    for number, name in enumerate(joints(env)):
        set_joint(env, name, 0.01 * (number + 1))
    np.testing.assert_array_equal(env.state(), np.float32(0.01 * np.arange(1, 30)))
    assert ROBOCASA_GR1.embodiment.state_layout == tuple(channel.name for channel in ROBOCASA_GR1.embodiment.channels)


def test_an_action_reaches_the_joint_that_its_channel_names(env: RobocasaEnv) -> None:
    ends = {}
    for channel in (None, 3, 10, 14, 21, 26):
        env.open(episode(), BLIND)
        rows = hold(env, 8)
        if channel is not None:
            rows[:, channel] += 0.3
        env.step_chunk(rows)
        ends[channel] = hold(env, 1)[0]
    for channel in (3, 10, 14, 21, 26):
        assert np.argmax(np.abs(ends[channel] - ends[None])) == channel


def test_gr00ts_order_plays_the_same_episode(env: RobocasaEnv) -> None:
    other = RobocasaGr00tEnv()
    names = [channel.name for channel in ROBOCASA_GR1.embodiment.channels]
    order = [names.index(channel.name) for channel in ROBOCASA_GR1_GR00T.embodiment.channels]
    assert order != list(range(29))
    assert (STARVLA_ORDER[1], GR00T_ORDER[1]) == ("right_arm", "left_hand")
    env.open(episode(), BLIND)
    other.open(episode(), BLIND)
    rows = hold(env, 8) + np.linspace(0, 0.2, 8, dtype=np.float32)[:, None]
    one, two = env.step_chunk(rows), other.step_chunk(rows[:, order])
    assert one.snapshot.state_digest == two.snapshot.state_digest
    np.testing.assert_array_equal(one.snapshot.state[order], two.snapshot.state)
    other.close()


def test_starvla_looks_for_success_at_the_end_of_a_chunk_alone(env: RobocasaEnv) -> None:
    for protocol, seen in (("starvla", []), ("robocasa", [3, 4])):
        env.open(episode(protocol=protocol), BLIND)
        with patch.object(type(env.task), "reward", lambda self, action: float(self.timestep_of_test in (3, 4))):
            found = []
            for number, row in enumerate(hold(env, 8)):
                env.task.timestep_of_test = number
                found += [number] if env.step_chunk(row[None]).steps[0].success_at_end else []
        assert found == seen
    env.open(episode(protocol="starvla"), BLIND)
    with patch.object(type(env.task), "reward", lambda self, action: 1.0):
        steps = env.step_chunk(hold(env, 12)).steps
    assert [step.success_at_end for step in steps] == [False] * 11 + [True]


def test_nothing_is_rendered_between_frames_and_envs_share_what_renders(env: RobocasaEnv) -> None:
    other = env.sibling()
    alone = env.open(episode(), Needs()).frames.views["ego"][-1]
    with patch.object(SharedCanvas, "render", autospec=True, side_effect=SharedCanvas.render) as rendered:
        env.step_chunk(hold(env, 8))
    assert rendered.call_count == 1
    theirs = other.open(episode(CLOSING[0]), Needs()).frames.views["ego"][-1]
    assert np.mean(alone != theirs) > 0.3
    np.testing.assert_array_equal(env.open(episode(), Needs()).frames.views["ego"][-1], alone)
    other.close()


def test_another_size_than_upstreams_is_refused(env: RobocasaEnv) -> None:
    env.open(episode(), BLIND)
    with pytest.raises(VlarigError, match=r"'ego' was requested in 224 x 224, and upstream's image has 256 x 256"):
        env.render_view(Camera("ego", 224, 224))


def test_missing_objects_are_named(env: RobocasaEnv) -> None:
    env.open(episode(), BLIND)
    from robocasa.models.objects.kitchen_objects import OBJ_CATEGORIES

    kinds = list(OBJ_CATEGORIES["can"].values())
    kept = [kind.mjcf_paths for kind in kinds]
    try:
        for kind in kinds:
            kind.mjcf_paths = []
        with pytest.raises(VlarigError, match=r"'PnPCanToDrawerClose' needs data files.*vlarig assets verify robocasa_gr1"):
            env.open(episode("PnPCanToDrawerClose"), BLIND)
    finally:
        for kind, paths in zip(kinds, kept):
            kind.mjcf_paths = paths


def test_an_unknown_task_is_named(env: RobocasaEnv) -> None:
    with pytest.raises(VlarigError, match=r"upstream has no task 'Nothing'"):
        make_task("Nothing")


@pytest.mark.parametrize("suite", [ROBOCASA_GR1, ROBOCASA_GR1_GR00T])
def test_the_experts_plan_solves_the_task_and_asking_for_it_changes_nothing(suite: Any) -> None:
    """In both channel orders; hands that do what they did before the plan succeed nowhere."""
    player = RobocasaEnv() if suite is ROBOCASA_GR1 else RobocasaGr00tEnv()
    begun = episode(number=2, suite=suite)
    begun = replace(begun, protocol=replace(begun.protocol, n_action_steps=720))
    snapshot = player.open(begun, Needs(images=False, privileged=True))
    rows = snapshot.privileged["plan"]
    planned = player.step_chunk(rows)
    assert planned.snapshot.outcome.first
    assert not player.open(begun, BLIND).privileged
    assert player.step_chunk(rows).snapshot.state_digest == planned.snapshot.state_digest
    player.open(begun, BLIND)
    assert not player.step_chunk(hold(player, 300)).snapshot.outcome.first
    player.close()
