"""The LIBERO adapter's promises; runs under the Python of the ``libero`` runtime."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vlarig.benchmarks.libero import suites as libero
from vlarig.envs.api import Episode, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.libero.env import SAMPLED_SUBSTEP, SUBSTEPS, LiberoEnv, rotation_vector
from vlarig.envs.libero.init_states import read_init_states
from vlarig.envs.libero.upstream import assets_folder

SUITES = {suite.name: suite for suite in vars(libero).values() if type(suite).__name__ == "Suite"}
#: Tasks with a stove, with drawers that a reset opens by chance, and with neither.
STOVE = ("libero_goal", "turn_on_the_stove")
DRAWER = ("libero_10", "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it")
PLAIN = ("libero_object", "pick_up_the_alphabet_soup_and_place_it_in_the_basket")

#: SHA-256 over all initial states.
INITIAL_STATES = "5cc4c3e50498838098e55b31893e567107148da12c866565a04f4a9012f58dcc"

BLIND = Needs(images=False)


def episode(task: tuple[str, str], initial_state: int) -> Episode:
    suite = SUITES[task[0]]
    return suite.episode(suite.task(task[1]), initial_state, 0, suite.protocols[0])


@pytest.fixture(scope="module")
def env() -> LiberoEnv:
    return LiberoEnv()


def test_every_reset_begins_with_the_model_as_compiled(env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.open(episode(STOVE, 0), BLIND)
    upstream, model, seen = env.scene.upstream, env.scene.model, []
    reset = upstream._reset_internal
    monkeypatch.setattr(upstream, "_reset_internal", lambda: (seen.append(model.body_pos.copy()), reset()))
    env.open(episode(STOVE, 1), BLIND)
    assert np.array_equal(seen[0], upstream.pristine["body_pos"])
    assert not np.array_equal(seen[0], model.body_pos), "the fixtures are elsewhere by now"


def test_things_are_described_in_the_words_of_instructions(env: LiberoEnv) -> None:
    seen = env.open(episode(STOVE, 3), Needs(objects=True)).objects["ego"]
    named = {each.name: each for each in seen}
    assert {"stove", "black bowl", "plate", "cream cheese", "wine bottle", "wooden cabinet", "wine rack"} == set(named)
    assert (named["black bowl"].colour, named["black bowl"].kind) == ("black", "bowl")
    assert all(
        0 <= left < right <= 224 and 0 <= top < bottom <= 224 for left, top, right, bottom in (each.box for each in seen)
    )


@pytest.mark.parametrize(
    ("task", "roles"),
    [
        (PLAIN, {"alphabet soup": "object", "basket": "goal"}),
        (DRAWER, {"black bowl": "object", "white cabinet": "goal"}),
        (STOVE, {}),
    ],
)
def test_what_the_goal_is_about_has_a_role(env: LiberoEnv, task: tuple[str, str], roles: dict[str, str]) -> None:
    """A region of a basket or of a cabinet is the basket or the cabinet; a stove that is turned on goes nowhere."""
    found = env.open(episode(task, 3), Needs(objects=True)).objects["ego"]
    assert {each.name: each.role for each in found if each.role} == roles


def test_a_stove_glows_in_its_own_env_alone(env: LiberoEnv) -> None:
    envs = [env, env.sibling()]
    for each in envs:
        each.open(episode(STOVE, 0), BLIND)
    env._env_state.data.joint("flat_stove_1_button").qpos[:] = 1.0
    results = [each.step_chunk(np.zeros((2, 7))) for each in envs]
    assert [result.steps[0].success_at_end for result in results] == [True, False]
    lit, dark = (each._env_state.site_rgba if each is not envs[1] else each.scene.model.site_rgba for each in envs)
    assert (lit != dark).any()
    assert np.array_equal(lit[:, :3], dark[:, :3])


def test_the_burner_and_the_fixtures_are_part_of_the_state(env: LiberoEnv) -> None:
    env.open(episode(STOVE, 0), BLIND)
    first = env.simulator_state()
    env.open(episode(STOVE, 0), BLIND)
    assert np.array_equal(env.simulator_state(), first)
    env.scene.model.body_pos[env.scene.bodies["flat_stove_1"]] += 0.01
    assert not np.array_equal(env.simulator_state(), first)


def test_success_is_seen(env: LiberoEnv) -> None:
    env.open(episode(STOVE, 0), BLIND)
    assert not any(step.success_at_end for step in env.step_chunk(np.zeros((8, 7))).steps)
    env._env_state.data.joint("flat_stove_1_button").qpos[:] = 1.0
    result = env.step_chunk(np.zeros((8, 7)))
    assert len(result.steps) == 1
    assert (result.steps[0].reward, result.steps[0].success_at_end, result.over) == (1.0, True, True)


def test_no_torch_and_no_question(env: LiberoEnv) -> None:
    """Upstream prompts on the terminal at its first import; here is none."""
    env.open(episode(STOVE, 0), BLIND)
    assert "torch" not in sys.modules
    assert Path(os.environ["LIBERO_CONFIG_PATH"]) != Path.home() / ".libero"


def test_initial_states_are_what_numpy_makes_of_the_files() -> None:
    """The digest was taken with the arrays that numpy's own unpickling gives."""
    digest = hashlib.sha256()
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        for task in SUITES[suite].tasks:
            states = read_init_states(assets_folder() / "init_files" / suite / f"{task.name}.pruned_init")
            assert len(states) == 50
            digest.update(f"{suite}/{task.name} {states.shape} {states.dtype.str} ".encode())
            digest.update(states.tobytes())
    assert digest.hexdigest() == INITIAL_STATES


def test_damaged_initial_states_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "task.pruned_init"
    broken.write_bytes(b"no archive")
    with pytest.raises(VlarigError, match=r"task\.pruned_init holds no initial states"):
        read_init_states(broken)
    with pytest.raises(VlarigError, match="is missing"):
        read_init_states(tmp_path / "other.pruned_init")
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]q\x00(K\x01K\x02K\x03e.")  # a list
    with pytest.raises(VlarigError, match="not that of a matrix"):
        read_init_states(broken)


def test_bad_episodes_are_named(env: LiberoEnv) -> None:
    good = episode(STOVE, 0)
    with pytest.raises(VlarigError, match="initial states 0 to 49, got 50"):
        env.open(Episode(good.suite, good.protocol, good.task, "base", 50, 0, good.payload), BLIND)
    with pytest.raises(VlarigError, match="no task 'fly'"):
        env.open(Episode(good.suite, good.protocol, "fly", "base", 0, 0, good.payload), BLIND)
    env.open(episode(STOVE, 3), BLIND)
    assert env.step_chunk(np.zeros((1, 7))).steps, "the env still works"


def test_the_sampled_substep_is_upstreams() -> None:
    """Upstream's own sensor, driven as ``reset``, ``set_init_state`` and 200 control steps drive it."""
    from robosuite.utils.observables import Observable, sensor

    looks = []

    @sensor(modality="any")
    def look(cache: dict) -> np.ndarray:
        looks.append(0)
        return np.zeros(2)

    observable = Observable("look", look, sampling_rate=20)
    observable.reset()
    for _ in range(2):
        observable.update(0.002, {}, force=True)
    for _ in range(200):
        seen = []
        for _ in range(SUBSTEPS):
            before = len(looks)
            observable.update(0.002, {})
            seen.append(len(looks) - before)
        assert seen == [int(substep == SAMPLED_SUBSTEP) for substep in range(SUBSTEPS)]


def test_rotation_vectors_are_the_evaluators() -> None:
    from robosuite.utils.transform_utils import quat2axisangle

    rng = np.random.default_rng(0)
    for quaternion in [*rng.normal(size=(200, 4)), np.array([1.0, 0, 0, 0]), np.array([-1.0, 0, 0, 0])]:
        quaternion /= np.linalg.norm(quaternion)
        assert np.array_equal(rotation_vector(quaternion), quat2axisangle(quaternion[[1, 2, 3, 0]]))


def test_privileged_state_names_the_tasks_things(env: LiberoEnv) -> None:
    truth = env.open(episode(PLAIN, 0), Needs(images=False, privileged=True)).privileged
    assert {"grip", "pose/alphabet_soup_1", "points/alphabet_soup_1", "pose/basket_1"} <= truth.keys()
    centre = truth["points/alphabet_soup_1"].mean(axis=0)
    assert np.linalg.norm(centre - truth["pose/alphabet_soup_1"][:3]) < 0.05
    assert truth["points/alphabet_soup_1"].shape[1] == 3


def test_a_scene_is_closed_when_the_process_has_left_it_behind() -> None:
    closed = []
    env = LiberoEnv()
    env._pool._scenes.update({("a", "1"): SimpleNamespace(close=lambda: closed.append("a"))})
    env.open(episode(STOVE, 0), BLIND)
    assert closed == []
    env.open(episode(PLAIN, 0), BLIND)
    assert closed == ["a"]
    assert set(env._pool._scenes) == {STOVE, PLAIN}
