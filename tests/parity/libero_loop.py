"""Ours against upstream's own loop, to the bit; runs under the Python of the ``libero`` runtime.

The loop is that of the public evaluators: make ``OffScreenRenderEnv``, seed it, reset it, set an initial state, wait ten steps, then
act, with both cameras drawn at every step. It is seeded with each episode's own seed. Drawing takes nine tenths of upstream's time, so
pictures that no test reads are left blank, but for one episode of ``DRAWN_THROUGHOUT``.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from PIL import Image

from vlarig.benchmarks.libero import suites as libero
from vlarig.envs.api import Camera, Episode, Needs, Snapshot, StepResult
from vlarig.envs.libero.env import LiberoEnv
from vlarig.envs.libero.init_states import read_init_states
from vlarig.envs.libero.upstream import assets_folder, import_upstream, make_task

SUITES = {suite.name: suite for suite in vars(libero).values() if type(suite).__name__ == "Suite"}
VIEWS = {"ego": "agentview_image", "cam_left_wrist": "robot0_eye_in_hand_image"}
WAIT = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
CHUNK = 16
CHUNKS = 3

#: Suite, number of the task, initial state, and whose actions are played. There are scenes with a stove, with drawers and doors that a
#: reset opens, with bowls inside of things. A task's episodes follow each other: it is loaded once for them.
EPISODES = [
    ("libero_spatial", 0, 3, "random"),
    ("libero_spatial", 4, 20, "random"),
    ("libero_spatial", 4, 2, "expert"),
    ("libero_spatial", 7, 7, "expert"),
    ("libero_object", 1, 5, "random"),
    ("libero_object", 1, 4, "expert"),
    ("libero_object", 7, 41, "random"),
    ("libero_object", 7, 9, "expert"),
    ("libero_goal", 3, 9, "random"),
    ("libero_goal", 7, 0, "random"),
    ("libero_10", 3, 4, "random"),
    ("libero_10", 9, 11, "random"),
    ("libero_90", 0, 3, "random"),
    ("libero_90", 40, 33, "random"),
]

#: Recorded actions of the scripted expert in episodes that it solved, its gripper made binary; by their keys, with "|" for "/".
RECORDED = np.load(Path(__file__).with_name("libero_actions.npz"))

#: The shortest of them: here upstream draws at every step, as it does for the evaluators.
DRAWN_THROUGHOUT = min(RECORDED.files, key=lambda key: len(RECORDED[key]))


@contextmanager
def blank() -> Iterator[None]:
    """Upstream's pictures are black within; its cameras' clock goes on."""

    def black(sim: Any, width: int, height: int, **_: Any) -> np.ndarray:
        return np.zeros((height, width, 3), dtype=np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robosuite.utils.binding_utils.MjSim.render", black)
        yield


class Upstream:
    """The evaluators' loop over one task."""

    def __init__(self, suite: str, task: str) -> None:
        assets = assets_folder()
        import_upstream()
        from libero.libero.envs import OffScreenRenderEnv

        bddl = assets / "bddl_files" / suite / f"{task}.bddl"
        with blank():
            self.env = OffScreenRenderEnv(bddl_file_name=str(bddl), camera_heights=256, camera_widths=256)
        self.states = read_init_states(assets / "init_files" / suite / f"{task}.pruned_init")

    def draw_here(self) -> None:
        """Upstream makes its graphics context the current one when it makes it, and assumes that nothing else draws."""
        self.env.sim._render_context_offscreen.gl_ctx.make_current()

    def reset(self, seed: int, initial_state: int) -> dict[str, np.ndarray]:
        self.draw_here()
        with blank():
            self.env.seed(seed)
            self.env.reset()
            self.env.set_init_state(self.states[initial_state])
            for _ in range(libero.WAIT_STEPS - 1):
                self.env.step(WAIT)
        return self.env.step(WAIT)[0]

    def step(self, action: np.ndarray, look: bool = True) -> tuple[dict[str, np.ndarray], float, bool]:
        """One control step; without ``look`` its pictures are black."""
        self.draw_here()
        with nullcontext() if look else blank():
            observation, reward, done, _ = self.env.step(action.tolist())
        return observation, reward, done

    @property
    def piles_up(self) -> bool:
        """Whether a reset leaves something behind for the next one; see ``test_upstreams_samplers_pile_up``."""
        return len(self.env.env.object_property_initializers) > 0

    def state(self) -> list[np.ndarray]:
        return everything(self.env.sim.model._model, self.env.sim.data._data)


def everything(model: mujoco.MjModel, data: mujoco.MjData) -> list[np.ndarray]:
    """All of the physics state, the solver's warm start and the last commands included, and what differs in the models."""
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return [state, model.body_pos.copy(), model.body_quat.copy(), model.site_rgba.copy()]


class Watched(LiberoEnv):
    """Ours, with the states of every control step written down."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.seen: list[list[np.ndarray]] = []
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        step = super().apply(action)
        self.seen.append(everything(self.scene.model, self._env_state.data))
        return step


def assert_same_sight(snapshot: Snapshot, observation: dict[str, np.ndarray], cameras: tuple[Camera, ...]) -> None:
    """What the policy sees is what the evaluator makes of upstream's observation."""
    rotation = axis_angle(observation["robot0_eef_quat"])
    state = np.concatenate([observation["robot0_eef_pos"], rotation, observation["robot0_gripper_qpos"]])
    np.testing.assert_array_equal(snapshot.state, state.astype(np.float32))
    for camera in cameras:
        picture = np.ascontiguousarray(observation[VIEWS[camera.view]][::-1, ::-1])
        if camera.resize:
            picture = np.asarray(Image.fromarray(picture).resize((camera.width, camera.height), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(snapshot.frames.views[camera.view][-1], picture)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The evaluators' formula, for ``xyzw``."""
    sine = np.sqrt(1.0 - quaternion[3] * quaternion[3])
    return np.zeros(3) if math.isclose(sine, 0.0) else quaternion[:3] * 2.0 * math.acos(quaternion[3]) / sine


def wanted(suite: str, task: str, initial_state: int, **protocol: Any) -> Episode:
    chosen = SUITES[suite]
    changed = replace(chosen.protocols[0], name="parity", n_action_steps=CHUNK, **protocol)
    return chosen.episode(chosen.task(task), initial_state, 0, changed)


def compare(
    ours: Watched, theirs: Upstream, episode: Episode, actions: np.ndarray, throughout: bool = False
) -> list[StepResult]:
    """Play an episode on both; compare states, rewards and success at every step, sights at every chunk's end and at the last.

    Upstream draws where sights are compared, or ``throughout``.
    """
    cameras = episode.protocol.cameras
    snapshot = ours.open(episode, Needs(final_frame=True))
    observation = theirs.reset(episode.seed, episode.initial_state)
    ours.seen = ours.seen[-1:]
    states, verdicts, steps = [theirs.state()], [], []
    assert_same_sight(snapshot, observation, cameras)
    for index in range(0, len(actions), CHUNK):
        chunk = actions[index : index + CHUNK]
        result = ours.step_chunk(chunk)
        steps += result.steps
        for number, action in enumerate(chunk[: len(result.steps)], 1):
            observation, reward, done = theirs.step(action, throughout or number == len(result.steps))
            verdicts.append((reward, done))
            states.append(theirs.state())
        assert_same_sight(result.snapshot, observation, cameras)
        if result.over:
            break
    assert [(step.reward, step.success_at_end) for step in steps] == verdicts
    for mine, yours in zip(ours.seen, states, strict=True):
        for one, other in zip(mine, yours, strict=True):
            np.testing.assert_array_equal(one, other)
    return steps


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Free upstream's env after each test: a gigabyte whose parts refer to each other."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def ours() -> Watched:
    """One env for all tasks: a warm process against fresh ones of upstream's."""
    return Watched()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Callable[[str, str], Upstream]]:
    """Upstream's loop over a task; the last one goes on where it can."""
    made: dict[tuple[str, str], Upstream] = {}

    def loop(suite: str, task: str) -> Upstream:
        if (suite, task) not in made or made[suite, task].piles_up:
            made.clear()
            gc.collect()
            made[suite, task] = Upstream(suite, task)
        return made[suite, task]

    yield loop
    made.clear()


@pytest.mark.parametrize(("suite", "number", "initial_state", "actor"), EPISODES)
def test_the_loop(
    ours: Watched, upstream: Callable[[str, str], Upstream], suite: str, number: int, initial_state: int, actor: str
) -> None:
    """Strong random actions that press the open, then the closed hand into the scene; and episodes that succeed, to the terminal frame.

    Upstream's env loads the task again at each reset, so its second episode, here the expert's with an object, equals ours where its
    samplers do not pile up.
    """
    task = SUITES[suite].tasks[number].name
    theirs = upstream(suite, task)
    if actor == "random":
        steps = compare(ours, theirs, wanted(suite, task, initial_state), random_actions(initial_state))
        assert len(steps) == CHUNKS * CHUNK
        return
    key = f"{suite}|starvla-n_action_steps1@1|{task}|base|{initial_state}|0"
    # With the pictures as drawn, since their resizing is compared above.
    drawn = tuple(Camera(camera.view, 256, 256, mirror=True) for camera in libero.protocols(suite)[0].cameras)
    episode = wanted(suite, task, initial_state, cameras=drawn)
    steps = compare(ours, theirs, episode, RECORDED[key], throughout=key == DRAWN_THROUGHOUT)
    assert steps[-1].success_at_end
    assert not any(step.success_at_end for step in steps[:-1])


def random_actions(seed: int) -> np.ndarray:
    actions = np.clip(np.random.default_rng(seed).normal(0.0, 0.5, (CHUNKS * CHUNK, 7)), -1.0, 1.0).astype(np.float32)
    actions[CHUNK:, 2] -= 0.6
    actions[:, 6] = np.where(np.arange(len(actions)) < 2 * CHUNK, -1.0, 1.0)
    return np.clip(actions, -1.0, 1.0, out=actions)


def test_a_stove_glows_in_the_frame_in_which_upstream_shows_it(ours: Watched) -> None:
    """Upstream switches the burner's look after its cameras were sampled, so a stove that is turned on glows a frame later."""
    suite, task, knob = "libero_goal", "put_the_bowl_on_the_plate", "flat_stove_1_button"
    theirs, episode = Upstream(suite, task), wanted(suite, task, 0)
    ours.open(episode, Needs())
    theirs.reset(episode.seed, episode.initial_state)
    redness = []
    for turned_on in (False, True, True, True, False, False):
        for data in (ours._env_state.data, theirs.env.sim.data._data):
            data.joint(knob).qpos[:] = float(turned_on)
        step = np.array([WAIT], dtype=np.float32)
        snapshot = ours.step_chunk(step).snapshot
        observation, _, _ = theirs.step(step[0])
        assert_same_sight(snapshot, observation, episode.protocol.cameras)
        picture = snapshot.frames.views["ego"][-1].astype(int)
        redness.append(int((picture[..., 0] - picture[..., 1] > 100).sum()))
    dark = redness[0]
    assert [count > dark + 20 for count in redness] == [False, False, True, True, True, False]


def test_a_placement_that_fails_is_drawn_again(ours: Watched) -> None:
    """Upstream loads the task again when its samplers find no place; here the first try of both is made to fail after its draws."""
    suite, task = "libero_10", SUITES["libero_10"].tasks[3].name
    episode, actions = wanted(suite, task, 2), np.tile(np.array(WAIT, dtype=np.float32), (CHUNK, 1))
    theirs = Upstream(suite, task)
    ours.open(episode, Needs(images=False))
    for env in (theirs.env.env, ours.scene.upstream):
        fail_once(env)
    compare(ours, theirs, episode, actions)


def fail_once(env: Any) -> None:
    """Have the next reset of upstream's env raise what it raises when things do not fit."""
    from robosuite.utils.errors import RandomizationError

    reset = env._reset_internal

    def failing() -> None:
        env._reset_internal = reset
        reset()
        raise RandomizationError("no place")

    env._reset_internal = failing


def test_upstreams_samplers_pile_up() -> None:
    """Why the loop makes an env for each episode: each reset of upstream's appends the task's samplers of joints once more."""
    suite, task = "libero_10", SUITES["libero_10"].tasks[3].name
    theirs = Upstream(suite, task)
    samplers = theirs.env.env.object_property_initializers
    of_one_load, places = len(samplers), []
    for _ in range(2):
        theirs.reset(1, 0)
        places.append(theirs.env.sim.model.body_pos.copy())
    assert len(samplers) == 3 * of_one_load > 0
    assert not np.array_equal(*places), "the same seed, another place"


@pytest.mark.parametrize(("suite", "number"), [("libero_spatial", 3), ("libero_spatial", 5), ("libero_spatial", 9)])
def test_contacts_between_all_pairs(ours: Watched, suite: str, number: int) -> None:
    """Our check of contacts is upstream's, for every pair of things in states with and without contact."""
    from robosuite.environments.base import MujocoEnv

    task = SUITES[suite].tasks[number].name
    ours.open(wanted(suite, task, 0), Needs(images=False))
    upstream = ours.scene.upstream
    things = [*upstream.objects_dict.values(), *upstream.fixtures_dict.values()]
    found = set()
    for index in range(6):
        actions = np.random.default_rng(index).uniform(-1.0, 1.0, (CHUNK, 7))
        actions[:, 2] = -0.8
        ours.step_chunk(actions)
        for first in things:
            for second in things:
                touching = upstream.check_contact(first, second)
                assert touching == MujocoEnv.check_contact(upstream, first, second), (first.name, second.name)
                found.add(touching)
    assert found == {True, False}


def test_tasks_are_made_as_upstream_makes_them() -> None:
    """Our arguments give the model that ``OffScreenRenderEnv`` compiles, but for the switched-off sensors."""
    suite, task = "libero_goal", SUITES["libero_goal"].tasks[0].name
    theirs = Upstream(suite, task).env.sim.model._model
    mine = make_task(suite, task).sim.model._model
    for name in ("body_mass", "geom_size", "geom_friction", "dof_damping", "cam_pos", "light_pos", "tex_data", "mesh_vert"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
