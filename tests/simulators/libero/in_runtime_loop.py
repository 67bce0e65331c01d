"""What is particular in upstream's own loop, and how the adapter meets it; runs under the Python of the ``libero`` runtime.

The contract kit compares the adapter with the loop, on random and on recorded actions; it is :mod:`vlarig.envs.libero.evaluator`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.libero import suites as libero
from vlarig.envs.api import Episode, Needs
from vlarig.envs.libero.env import LiberoEnv
from vlarig.envs.libero.evaluator import LiberoEvaluator
from vlarig.envs.libero.upstream import make_task
from vlarig.envs.parity import parity

SUITES = {suite.name: suite for suite in vars(libero).values() if type(suite).__name__ == "Suite"}
WAIT = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
CHUNK = 16

#: Recorded actions of the scripted expert, in the shortest episode that it solved.
RECORDED = np.load(Path(__file__).with_name("actions.npz"))
SHORTEST = min(RECORDED.files, key=lambda key: len(RECORDED[key]))


def wanted(suite: str, task: str, initial_state: int, n_action_steps: int = CHUNK) -> Episode:
    chosen = SUITES[suite]
    protocol = replace(chosen.protocols[0], n_action_steps=n_action_steps)
    return chosen.episode(chosen.task(task), initial_state, 0, protocol)


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Free upstream's env after each test: a gigabyte whose parts refer to each other."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def ours() -> LiberoEnv:
    return LiberoEnv()


def test_rendering_less_changes_nothing_upstream(ours: LiberoEnv) -> None:
    """Here upstream renders at every step, as it does for the evaluators; in the contract kit only where images are compared."""
    suite, _, task, _, initial_state, _ = SHORTEST.split("|")
    episode = wanted(suite, task, int(initial_state))
    steps = parity(ours, LiberoEvaluator(episode), episode, RECORDED[SHORTEST], throughout=True)
    assert [step.success_at_end for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_stove_glows_in_the_frame_in_which_upstream_shows_it(ours: LiberoEnv) -> None:
    """Upstream switches the burner's look after its cameras were sampled, so a stove that is turned on glows a frame later."""
    episode, knob = wanted("libero_goal", "put_the_bowl_on_the_plate", 0, n_action_steps=1), "flat_stove_1_button"
    theirs, redness = LiberoEvaluator(episode), []
    ours.open(episode, Needs())
    theirs.reset(episode)
    for turned_on in (False, True, True, True, False, False):
        for data in (ours._env_state.data, theirs.env.sim.data._data):
            data.joint(knob).qpos[:] = float(turned_on)
        step = np.array([WAIT], dtype=np.float32)
        frames = ours.step_chunk(step).snapshot.frames.views
        theirs.step(step[0])
        for view in frames:
            np.testing.assert_array_equal(frames[view][-1], theirs.observation()[view])
        image = frames["ego"][-1].astype(int)
        redness.append(int((image[..., 0] - image[..., 1] > 100).sum()))
    dark = redness[0]
    assert [count > dark + 20 for count in redness] == [False, False, True, True, True, False]


def test_a_placement_that_fails_is_sampled_again(ours: LiberoEnv) -> None:
    """Upstream loads the task again when its samplers find no place; here the first try of both is made to fail after its samples."""
    episode = wanted("libero_10", SUITES["libero_10"].tasks[3].name, 2)
    theirs = LiberoEvaluator(episode)
    ours.open(episode, Needs(images=False))
    for env in (theirs.env.env, ours.scene.upstream):
        fail_once(env)
    parity(ours, theirs, episode, np.tile(np.array(WAIT, dtype=np.float32), (CHUNK, 1)))


def fail_once(env: Any) -> None:
    """Have the next reset of upstream's env raise what it raises when objects do not fit."""
    from robosuite.utils.errors import RandomizationError

    reset = env._reset_internal

    def failing() -> None:
        env._reset_internal = reset
        reset()
        raise RandomizationError("no place")

    env._reset_internal = failing


def test_upstreams_samplers_pile_up() -> None:
    """Why the loop makes an env for each episode: each reset of upstream's appends the task's samplers of joints once more."""
    episode = wanted("libero_10", SUITES["libero_10"].tasks[3].name, 0)
    theirs = LiberoEvaluator(episode)
    samplers = theirs.env.env.object_property_initializers
    of_one_load, places = len(samplers), []
    for _ in range(2):
        theirs.begin_again(episode)
        places.append(theirs.env.sim.model.body_pos.copy())
    assert len(samplers) == 3 * of_one_load > 0
    assert not np.array_equal(*places), "the same seed, another place"


@pytest.mark.parametrize(("suite", "number"), [("libero_spatial", 3), ("libero_spatial", 5), ("libero_spatial", 9)])
def test_contacts_between_all_pairs(ours: LiberoEnv, suite: str, number: int) -> None:
    """Our check of contacts is upstream's, for every pair of bodies in states with and without contact."""
    from robosuite.environments.base import MujocoEnv

    task = SUITES[suite].tasks[number].name
    ours.open(wanted(suite, task, 0), Needs(images=False))
    upstream = ours.scene.upstream
    bodies = [*upstream.objects_dict.values(), *upstream.fixtures_dict.values()]
    found = set()
    for index in range(6):
        actions = np.random.default_rng(index).uniform(-1.0, 1.0, (CHUNK, 7))
        actions[:, 2] = -0.8
        ours.step_chunk(actions)
        for first in bodies:
            for second in bodies:
                touching = upstream.check_contact(first, second)
                assert touching == MujocoEnv.check_contact(upstream, first, second), (first.name, second.name)
                found.add(touching)
    assert found == {True, False}


def test_tasks_are_made_as_upstream_makes_them() -> None:
    """Our arguments give the model that ``OffScreenRenderEnv`` compiles, but for the switched-off sensors."""
    suite, task = "libero_goal", SUITES["libero_goal"].tasks[0].name
    theirs = LiberoEvaluator(wanted(suite, task, 0)).env.sim.model._model
    mine = make_task(suite, task).sim.model._model
    for name in ("body_mass", "geom_size", "geom_friction", "dof_damping", "cam_pos", "light_pos", "tex_data", "mesh_vert"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
