"""What is particular in mani-skill's own loop, and how the adapter meets it; runs under the Python of the ``simpler`` runtime.

The contract kit compares the adapter with the loop, on random and on recorded steps; it is :mod:`vlarig.envs.simpler.evaluator`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vlarig.benchmarks.simpler.widowx import PLAIN, SIMPLER_WIDOWX
from vlarig.envs.api import Episode, Needs
from vlarig.envs.parity import parity, sample_actions
from vlarig.envs.simpler.env import BridgeEnv
from vlarig.envs.simpler.evaluator import VIEW, ManiSkillEvaluator, everything

TASKS = [task.name for task in SIMPLER_WIDOWX.tasks]


def wanted(task: str, initial_state: int) -> Episode:
    return SIMPLER_WIDOWX.episode(SIMPLER_WIDOWX.task(task), initial_state, 0, PLAIN)


@pytest.fixture(scope="module")
def ours() -> BridgeEnv:
    """One env for all tasks: a warm process against fresh envs of upstream's."""
    return BridgeEnv()


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Iterator[tuple[str, ManiSkillEvaluator]]:
    theirs = ManiSkillEvaluator(wanted(request.param, 0))
    yield request.param, theirs
    theirs.close()


def test_starts_are_upstreams(task: tuple[str, ManiSkillEvaluator]) -> None:
    """Of every episode id, the poses before settling."""
    name, theirs = task
    places, turns = theirs.task.xyz_configs.numpy(), theirs.task.quat_configs.numpy()
    initial_states = SIMPLER_WIDOWX.task(name).initial_states_of(PLAIN)
    assert initial_states == tuple(range(len(places) * len(turns)))
    for initial_state in initial_states:
        payload = wanted(name, initial_state).payload
        assert list(payload["objects"]) == list(theirs.task.objs)
        assert (payload["source"], payload["target"]) == (theirs.task.source_obj_name, theirs.task.target_obj_name)
        place, turn = divmod(initial_state, len(turns))
        upstreams = np.concatenate([places[place], turns[turn]], axis=-1)
        np.testing.assert_allclose(list(payload["objects"].values()), upstreams, atol=1e-7)
    assert theirs.task.get_language_instruction() == [wanted(name, 0).payload["instruction"]]


def test_where_things_come_to_rest(ours: BridgeEnv, task: tuple[str, ManiSkillEvaluator]) -> None:
    """Also at the eggplant's initial state 61, from which it falls out of the sink, upstream's too."""
    name, theirs = task
    for initial_state in (0, 23, 61 if name == "put_eggplant_in_basket" else 12):
        ours.open(wanted(name, initial_state), Needs(images=False))
        theirs.reset(wanted(name, initial_state))
        for mine, yours in zip(everything(ours.scene.upstream), theirs.state(), strict=True):
            np.testing.assert_array_equal(mine, yours)


def test_rendering_less_changes_nothing_upstream(ours: BridgeEnv) -> None:
    """Here upstream renders at every step, as it does for the evaluators; in the contract kit only where images are compared."""
    episode = wanted("put_carrot_on_plate", 10)
    theirs = ManiSkillEvaluator(episode)
    parity(ours, theirs, episode, sample_actions(ours.embodiment, np.random.default_rng(0), 4), throughout=True)
    theirs.close()


def test_a_translucent_object_shows_what_is_behind_it_as_upstreams_does() -> None:
    """Only then the light of what the photograph covers is computed."""
    import sapien

    episode, model = wanted("put_carrot_on_plate", 0), "bridge_carrot_generated_modified"
    (camera,) = PLAIN.cameras
    ours, theirs = BridgeEnv(), ManiSkillEvaluator(episode)
    theirs.reset(episode)
    ours.open(episode, Needs())
    opaque = ours.render_view(camera)
    for entity in (ours.scene.bodies[model].entity, theirs.task.objs[model]._bodies[0].entity):
        (body,) = (each for each in entity.components if isinstance(each, sapien.render.RenderBodyComponent))
        body.visibility = 0.5
    seen = theirs.task.get_obs()["sensor_data"][VIEW]["rgb"][0].numpy()
    translucent = ours.render_view(camera)
    np.testing.assert_array_equal(translucent, seen)
    assert np.any(translucent != opaque, axis=-1).sum() > 1000
    ours.close()
    theirs.close()


def test_upstreams_plain_reset_remembers() -> None:
    """Why the loop reconfigures: PhysX keeps contacts, so where the eggplant comes to rest depends on the episode before."""
    theirs, places = ManiSkillEvaluator(wanted("put_eggplant_in_basket", 5)), []
    for begin in (theirs.reset, theirs.begin_again, theirs.reset):
        begin(wanted("put_eggplant_in_basket", 5))
        (body,) = theirs.task.objs["eggplant"]._bodies
        places.append(np.concatenate([body.entity.pose.p, body.entity.pose.q]))
        theirs.begin_again(wanted("put_eggplant_in_basket", 2))
    assert np.array_equal(places[0], places[2])
    assert not np.array_equal(places[0], places[1])
