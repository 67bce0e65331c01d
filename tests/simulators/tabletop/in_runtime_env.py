"""The tabletop adapter's promises; runs under the Python of the ``tabletop`` runtime."""

from __future__ import annotations

import contextlib
import copy
import gc
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.envs.api import Camera, Episode, Needs
from vlarig.envs.mujoco_shared import MAX_GEOMS
from vlarig.envs.tabletop import layout
from vlarig.envs.tabletop.env import TabletopEnv
from vlarig.envs.tabletop.scene import RENDERED_GROUPS
from vlarig.envs.tabletop.states_env import TabletopStatesEnv

BLIND = Needs(images=False)
STEPS = 48


def episode(task: str, initial_state: int) -> Episode:
    return TABLETOP.episode(TABLETOP.task(task), initial_state, 0, TABLETOP.protocols[0])


def actions(initial_state: int) -> np.ndarray:
    return np.random.default_rng(initial_state).uniform(-1.0, 1.0, (STEPS, 7))


def digest(env: TabletopEnv, wanted: Episode, needs: Needs) -> str:
    """Run an episode with random actions and return its state digest."""
    snapshot = env.open(wanted, needs)
    for chunk in actions(wanted.initial_state).reshape(-1, 16, 7):
        snapshot = env.step_chunk(chunk).snapshot
    return snapshot.state_digest


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv()


def test_each_object_is_described_by_its_own_pixels(env: TabletopEnv) -> None:
    """Against the image itself: recolouring one object changes pixels in its box alone, up to the box's sides."""
    wanted = episode("pick_into", 0)
    snapshot = env.open(wanted, Needs(objects=True))
    before = snapshot.frames.views["ego"][-1].astype(int)
    found = snapshot.objects["ego"]
    assert sorted(each.name for each in found) == sorted(
        [each["name"] for each in wanted.payload["objects"]] + [tray["name"] for tray in wanted.payload["trays"]]
    )
    for each in found:
        body = next(body for _, colour, kind, body in env._shown if f"{colour} {kind}" == each.name)
        geoms = env._geoms_of(body)
        colour = env._model.geom_rgba[geoms].copy()
        env._model.geom_rgba[geoms, :3] = 1 - colour[:, :3]
        after = env.render_view(wanted.protocol.cameras[0]).astype(int)
        env._model.geom_rgba[geoms] = colour
        rows, columns = np.nonzero(np.abs(after - before).sum(axis=2))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == each.box
        assert 0.4 < each.visible <= 1.0
        assert 0.8 < each.depth < 1.3


@pytest.mark.parametrize(
    ("task", "names"), [("pick_into", "object tray"), ("stack", "object base"), ("push_to", "object zone")]
)
def test_what_the_goal_is_about_has_a_role(env: TabletopEnv, task: str, names: str) -> None:
    wanted = episode(task, 1)
    moved, goal = (wanted.payload["goal"][name] for name in names.split())
    found = env.open(wanted, Needs(objects=True)).objects["ego"]
    assert {each.name: each.role for each in found if each.role} == {moved: "object", goal: "goal"}


def test_of_an_ordered_goal_the_part_that_is_to_be_done_has_the_roles(env: TabletopEnv) -> None:
    goal = {"kind": "ordered", "parts": [inside(), inside("blue cube", "black tray")]}
    wanted = replace(episode("pick_into", 0), payload=scene(goal))
    for done, expected in enumerate((("red cube", "white tray"), ("blue cube", "black tray"), ("blue cube", "black tray"))):
        env.open(wanted, BLIND)
        env._goal.done = done
        roles = {each.role: each.name for each in env.describe(wanted.protocol.cameras[0])}
        assert (roles["object"], roles["goal"]) == expected


def test_a_state_says_where_object_and_goal_are_seen_from_the_hand() -> None:
    states = TabletopStatesEnv()
    for task, first, place in (("push_to", "object", "zone"), ("pick_into", "object", "tray"), ("stack", "object", "base")):
        wanted = episode(task, 3)
        goal = wanted.payload["goal"]
        snapshot = states.open(wanted, Needs(images=False, privileged=True))
        truth, state = snapshot.privileged, snapshot.state
        hand, position = state[:3], truth[f"object/{goal[first]}"]
        (there,) = (value for key, value in truth.items() if key.partition("/")[2] == goal[place])
        np.testing.assert_allclose(state[8:11], position[:3] - hand, atol=1e-6)
        np.testing.assert_allclose(state[13:], there[:3] - hand, atol=1e-6)
        turn = 2 * np.arctan2(position[6], position[3])
        np.testing.assert_allclose(state[11:13], [np.cos(4 * turn), np.sin(4 * turn)], atol=1e-6)
        np.testing.assert_allclose(state[:8], TabletopEnv.state(states), atol=1e-6)


def test_views_are_upright_and_show_the_named_colours(env: TabletopEnv) -> None:
    env.open(replace(episode("pick_into", 0), payload=scene(inside())), BLIND)
    image = env.render_view(Camera("ego", 128, 128)).astype(int)
    red = np.argwhere((image[..., 0] > 100) & (image[..., 1:].max(-1) < 60))
    blue = np.argwhere((image[..., 2] > 100) & (image[..., :2].max(-1) < 80))
    assert red[:, 1].mean() < 64 < blue[:, 1].mean(), "the world's y is the image's right"
    assert red[:, 0].mean() > 40, "the table is below the robot"
    assert env.render_view(Camera("cam_left_wrist", 96, 64)).shape == (96, 64, 3)


@pytest.mark.parametrize("protocol", ["standard", "randomized"])
def test_leaving_out_what_is_out_of_view_changes_no_pixel(env: TabletopEnv, protocol: str) -> None:
    """Against MuJoCo's own renderer, which renders all of the scene."""
    options = mujoco.MjvOption()
    options.geomgroup[:] = [group in RENDERED_GROUPS for group in range(mujoco.mjNGROUP)]
    skies = set()
    for initial_state in range(3):
        wanted = TABLETOP.episode(TABLETOP.task("pick_into"), initial_state, 0, TABLETOP.protocol(protocol))
        env.open(wanted, Needs())  # an image, with which it decides how edges are rendered
        height, width = wanted.protocol.cameras[0].height, wanted.protocol.cameras[0].width
        with contextlib.closing(mujoco.Renderer(env._model, height, width, max_geom=MAX_GEOMS)) as whole:
            for chunk in actions(initial_state).reshape(-1, 4, 7):
                env.step_chunk(chunk)
                data = copy.copy(env._data)  # rendering leaves what was computed within a step as it is
                mujoco.mj_forward(env._model, data)
                for camera in wanted.protocol.cameras:
                    whole.update_scene(data, env.embodiment.cameras[camera.view], options)
                    assert np.array_equal(whole.render(), env.render_view(camera))
                    skies.add((camera.view, bool(env._renderer._canvas._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX.value])))
    assert {("ego", True), ("cam_left_wrist", False)} <= skies


def test_nothing_is_solved_by_waiting(env: TabletopEnv) -> None:
    for task in TABLETOP.tasks:
        env.open(episode(task.name, 7), BLIND)
        assert not any(step.success_at_end for step in env.step_chunk(np.zeros((16, 7))).steps)


def randomized(task: str, initial_state: int, repeat: int = 0) -> Episode:
    return TABLETOP.episode(TABLETOP.task(task), initial_state, repeat, TABLETOP.protocol("randomized"))


def first_frame(env: TabletopEnv, wanted: Episode) -> np.ndarray:
    return env.open(wanted, Needs()).frames.views["ego"][0].copy()


def test_a_randomized_episode_is_a_function_of_its_key(env: TabletopEnv) -> None:
    wanted = randomized("stack", 3)
    states = [digest(each, wanted, BLIND) for each in (TabletopEnv(), env, env.sibling())]
    assert len(set(states)) == 1
    shared = env.sibling()
    images = [first_frame(each, wanted) for each in (TabletopEnv(), env, shared)]
    first_frame(shared, randomized("stack", 3, 1))
    assert all(np.array_equal(image, images[0]) for image in (*images[1:], first_frame(env, wanted)))
    assert not np.array_equal(first_frame(env, randomized("stack", 3, 1)), images[0])
    assert digest(env, randomized("stack", 3, 1), BLIND) != states[0]


def test_textures_of_envs_that_share_a_renderer_are_not_mixed(env: TabletopEnv) -> None:
    wanted = [randomized("push_to", number) for number in (1, 2)]
    alone = [first_frame(TabletopEnv(), one) for one in wanted]
    envs = [env, env.sibling()]
    for each, one in zip(envs, wanted):
        each.open(one, Needs())
    again = [each.render_view(Camera("ego", 128, 128)) for each in envs]
    assert all(np.array_equal(one, other) for one, other in zip(alone, again))


def test_an_env_that_is_forgotten_takes_no_texture_of_another(env: TabletopEnv) -> None:
    wanted = randomized("push_to", 1)
    forgotten = TabletopEnv()
    first_frame(forgotten, wanted)
    before = first_frame(env, wanted)
    del forgotten
    gc.collect()
    assert np.array_equal(env.render_view(Camera("ego", 128, 128)), before)


def test_randomization_leaves_no_trace(env: TabletopEnv) -> None:
    other = TabletopEnv()
    plain, state = first_frame(other, episode("stack", 3)), digest(other, episode("stack", 3), BLIND)
    first_frame(env, randomized("stack", 3))
    assert np.array_equal(first_frame(env, episode("stack", 3)), plain)
    assert digest(env, episode("stack", 3), BLIND) == state


def test_every_randomized_view_is_lit_and_shows_the_objects(env: TabletopEnv) -> None:
    """In the ego view each object has some pixels of a colour of its own: as much of it is rendered as without others in the way."""
    for number in range(12):
        env.open(randomized("pick_into", number), BLIND)
        image = env.render_view(Camera("ego", 128, 128))
        assert 50 < image.mean() < 215
        for name, body in env._bodies.items():
            kept = env._model.geom_rgba.copy()
            env._model.geom_rgba[env._geoms_of(body), 3] = 0.0
            without = env.render_view(Camera("ego", 128, 128))
            env._model.geom_rgba[:] = kept
            assert (np.abs(image.astype(int) - without).max(-1) > 20).sum() >= 15, (number, name)


SPOTS = {"red cube": (-0.1, -0.2), "blue cube": (-0.1, 0.2), "red cylinder": (0.1, -0.2), "blue cylinder": (0.1, 0.2)}
TRAYS = {"white tray": (0.02, -0.08), "black tray": (0.02, 0.08)}
ZONES = {"pink zone": (-0.15, -0.05), "gray zone": (-0.15, 0.1)}
FLOOR = layout.TABLE_TOP + layout.TRAY_FLOOR + 0.0225
TABLE = layout.TABLE_TOP + 0.0225


def inside(name: str = "red cube", tray: str = "white tray") -> dict[str, Any]:
    return {"kind": "inside", "object": name, "tray": tray}


def scene(goal: dict[str, Any]) -> dict[str, Any]:
    """A scene with everything in it."""
    objects = [
        {"name": name, "colour": name.split()[0], "shape": name.split()[1], "x": x, "y": y, "yaw": 0.0}
        for name, (x, y) in SPOTS.items()
    ]
    trays = [{"name": name, "colour": name.split()[0], "x": x, "y": y} for name, (x, y) in TRAYS.items()]
    zones = [{"name": name, "colour": name.split()[0], "x": x, "y": y} for name, (x, y) in ZONES.items()]
    return {"instruction": "", "objects": objects, "trays": trays, "zones": zones, "goal": goal}


def judge(env: TabletopEnv, goal: dict[str, Any], *moves: dict[str, tuple[float, float, float]]) -> bool:
    """Put objects to places one move after the other, let each settle, and return the last verdict."""
    env.open(replace(episode("stack", 0), payload=scene(goal)), BLIND)
    for move in moves:
        for name, position in move.items():
            env._qpos[env._bodies[name]][:3] = position
        steps = [env.apply(np.zeros(7, dtype=np.float32)) for _ in range(12)]
    return steps[-1].success_at_end


def test_inside_requires_the_object_and_the_tray(env: TabletopEnv) -> None:
    white, black = (*TRAYS["white tray"], FLOOR), (*TRAYS["black tray"], FLOOR)
    assert judge(env, inside(), {"red cube": white})
    assert not judge(env, inside(), {"blue cube": white})
    assert not judge(env, inside(), {"red cube": black})
    both = {"red cube": (white[0], white[1] - 0.03, FLOOR), "blue cube": (white[0], white[1] + 0.03, FLOOR)}
    assert not judge(env, inside(), both)


def test_a_held_object_is_not_placed(env: TabletopEnv) -> None:
    """The cube rests in the tray, between closed fingers: only letting go makes it placed."""
    env.open(replace(episode("stack", 0), payload=scene(inside())), BLIND)
    down = np.array([0, 0, -0.3, 0, 0, 0, -1], dtype=np.float32)
    while env._data.site_xpos[env._grip_site][2] > FLOOR + 0.004:
        env.apply(down)
    tray = env._data.site_xpos[env._grip_site][:2].copy()
    env._model.body("tray_0").pos[:2] = tray
    env._places["tray/white tray"] = tray
    env._qpos[env._bodies["red cube"]][:3] = (*tray, FLOOR)
    close, open_again = np.zeros(7, dtype=np.float32), np.zeros(7, dtype=np.float32)
    close[6], open_again[6] = 1.0, -1.0
    gripped = [env.apply(close).success_at_end for _ in range(20)]
    cube = env._world().objects["red cube"]
    assert cube.held
    assert cube.speed < 0.02
    assert cube.lowest < layout.TRAY_FLOOR + 0.003
    assert not any(gripped[8:]), "the fingers have closed by then"
    assert any(env.apply(open_again).success_at_end for _ in range(12))


@pytest.mark.parametrize(("side", "y"), [("left", -0.085), ("right", 0.085)])
def test_beside_requires_the_side_and_the_distance(env: TabletopEnv, side: str, y: float) -> None:
    goal = {"kind": "beside", "object": "red cube", "reference": "blue cube", "side": side}
    x0, y0 = SPOTS["blue cube"]
    assert judge(env, goal, {"red cube": (x0, y0 + y, TABLE)})
    assert not judge(env, goal, {"red cube": (x0, y0 - y, TABLE)})
    assert not judge(env, goal, {"red cube": (x0, y0 + 2 * y, TABLE)})
    assert not judge(env, goal, {"red cube": (x0 - 0.085, y0, TABLE)})


def test_stacked_requires_the_order(env: TabletopEnv) -> None:
    goal = {"kind": "stacked", "object": "red cube", "base": "blue cube"}
    on_blue = (*SPOTS["blue cube"], TABLE + 0.045)
    assert judge(env, goal, {"red cube": on_blue})
    assert not judge(env, goal, {"blue cube": (*SPOTS["red cube"], TABLE + 0.045)})
    assert not judge(env, {**goal, "base": "blue cylinder"}, {"red cube": on_blue})


def test_a_push_must_not_lift(env: TabletopEnv) -> None:
    goal = {"kind": "pushed", "object": "red cube", "zone": "pink zone"}
    end = (*ZONES["pink zone"], TABLE)
    assert judge(env, goal, {"red cube": end})
    assert not judge(env, goal, {"red cube": (*ZONES["gray zone"], TABLE)})
    assert not judge(env, goal, {"red cube": (-0.1, -0.1, TABLE + 0.05)}, {"red cube": end})
    assert env.metrics()["failed_for_good"] == 1.0


def test_two_steps_ask_for_the_order(env: TabletopEnv) -> None:
    goal = {"kind": "ordered", "parts": [inside(), inside("blue cube", "black tray")]}
    first = {"red cube": (*TRAYS["white tray"], FLOOR)}
    second = {"blue cube": (*TRAYS["black tray"], FLOOR)}
    assert judge(env, goal, first, second)
    assert not judge(env, goal, first)
    assert not judge(env, goal, second, first)
    assert env.metrics()["failed_for_good"] == 1.0


def test_a_failure_for_good_ends_the_episode(env: TabletopEnv) -> None:
    goal = {"kind": "pushed", "object": "red cube", "zone": "pink zone"}
    env.open(replace(episode("stack", 0), payload=scene(goal)), BLIND)
    env._qpos[env._bodies["red cube"]][2] += 0.05
    result = env.step_chunk(np.zeros((16, 7)))
    assert result.over
    assert len(result.steps) == 1
    assert not result.snapshot.outcome.first


def test_a_payload_that_does_not_fit_is_named(env: TabletopEnv) -> None:
    wrong = scene(inside())
    wrong["objects"] = wrong["objects"][1:]
    with pytest.raises(ValueError, match="the payload has"):
        env.open(replace(episode("stack", 0), payload=wrong), BLIND)
