"""Suites as Gymnasium vector environments: each autoreset mode equals that of Gymnasium's own vector environment."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from toy.suite import TOY_SUITE

from vlarig.envs import backoff
from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes.runtime import add_runtime
from vlarig.harness import register_envs
from vlarig.harness.gym import env as gym_env
from vlarig.harness.gym.env import RemoteEnv
from vlarig.harness.gym.vector import RemoteVectorEnv

TESTS = Path(__file__).parents[1]
ENVS = 3


@dataclass(frozen=True)
class Pair:
    """A RemoteVectorEnv on two workers, and a SyncVectorEnv of as many RemoteEnvs, in one autoreset mode."""

    mode: AutoresetMode
    ours: RemoteVectorEnv
    theirs: SyncVectorEnv

    def compare(self, question: Callable[[VectorEnv], Any], where: str = "") -> Any:
        """Call both, and make sure that their results are equal."""
        ours, theirs = question(self.ours), question(self.theirs)
        assert_same(ours, theirs, where)
        return ours


@pytest.fixture(scope="module", params=AutoresetMode)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """They live on from test to test, as envs do; each test begins with a seeded reset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLARIG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", str(TESTS))
        add_runtime("toy", Path(sys.executable))
        options: dict[str, Any] = {"privileged": True, "render_mode": "rgb_array"}
        ours = RemoteVectorEnv("toy", ENVS, workers=2, autoreset_mode=request.param, **options)
        theirs = SyncVectorEnv([lambda: RemoteEnv("toy", **options)] * ENVS, autoreset_mode=request.param)
        for envs in (ours, theirs):
            envs.reset(
                seed=0
            )  # starts the simulators, which find their runtime in this home; other tests have theirs elsewhere
    yield Pair(request.param, ours, theirs)
    ours.close()
    theirs.close()


@pytest.fixture
def env(toy_home: Path) -> Iterator[RemoteVectorEnv]:
    env = RemoteVectorEnv("toy", ENVS, workers=2)
    yield env
    env.close()


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """Equal to the bit, and of the same types, dtypes and shapes."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            assert_same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(ours, (tuple, list)) or (isinstance(ours, np.ndarray) and ours.dtype == object):
        assert len(ours) == len(theirs), where
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{where}[{index}]")
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        np.testing.assert_array_equal(ours, theirs, err_msg=where)
    else:
        assert ours == theirs, where


def choose(observations: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Steps that solve the first environment's episodes, which end early, and wander about in the others."""
    actions = rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)
    goal, position = observations["privileged"][0, :2], observations["privileged"][0, 2:]
    actions[0, :2] = np.clip((goal - position) * 10, -1, 1)
    return actions


@pytest.mark.slow
def test_a_mode_means_what_gymnasium_says(pair: Pair) -> None:
    rng = np.random.default_rng(0)
    observations, _ = pair.compare(lambda env: env.reset(seed=5))
    over, ended = np.zeros(ENVS, bool), np.zeros(ENVS, int)
    for step in range(90):
        actions = choose(observations, rng)
        if over.any() and (pair.mode is AutoresetMode.DISABLED or ended.sum() % 2):
            pair.compare(lambda env: env.reset(options={"reset_mask": over.copy()}), f"reset before step {step}")
        elif pair.mode is AutoresetMode.NEXT_STEP:
            actions[over] = np.nan  # ignored, since these are being reset
        observations, _, terminations, truncations, _ = pair.compare(lambda env: env.step(actions), f"step {step}")
        pair.compare(lambda env: env.render(), f"image {step}")
        over = terminations | truncations
        ended += over
    assert ended[0] > 3
    assert (ended >= 2).all()


@pytest.mark.slow
def test_some_environments_can_be_reset_in_mid_episode(pair: Pair) -> None:
    rng = np.random.default_rng(1)
    pair.compare(lambda env: env.reset(seed=[3, 4, 8], options={"task": "reach_red"}))
    for mask, seed, options in (
        ([True, False, True], None, {}),
        ([False, True, False], 20, {"task": "reach_blue", "initial_state": 4}),
        ([True, True, False], [None, 7, 9], {}),
        ([False, False, True], None, {}),
    ):
        for _ in range(4):
            actions = rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)
            pair.compare(lambda env: env.step(actions))
        _, infos = pair.compare(lambda env: env.reset(seed=seed, options={"reset_mask": np.array(mask), **options}))
        assert infos["_key"].tolist() == mask
    pair.compare(lambda env: env.step(actions))
    pair.compare(lambda env: env.reset())
    pair.compare(lambda env: env.np_random_seed)


def test_seeds_and_options_name_the_episodes(pair: Pair) -> None:
    for seed in (7, [4, 5, 6], None):
        pair.compare(lambda env: env.reset(seed=seed))
        pair.compare(lambda env: env.np_random_seed)
    pair.compare(lambda env: env.call("reset", seed=3))
    _, infos = pair.ours.reset(options=[{"task": "reach_red", "initial_state": initial_state} for initial_state in (4, 2, 0)])
    assert infos["key"].tolist() == [f"toy/standard@1/reach_red/base/{initial_state}/0" for initial_state in (4, 2, 0)]
    with pytest.raises(VlarigError, match=r"seed is a list of 2; give one for each of the 3 environments"):
        pair.ours.reset(seed=[1, 2])


def test_spaces_and_attributes_are_those_of_gymnasiums_own(pair: Pair) -> None:
    for name in (
        "single_observation_space",
        "single_action_space",
        "observation_space",
        "action_space",
        "metadata",
        "num_envs",
    ):
        pair.compare(lambda env: getattr(env, name))
    assert pair.ours.metadata["autoreset_mode"] is pair.mode
    observations, _ = pair.compare(lambda env: env.reset(seed=0))
    assert pair.ours.observation_space.contains(observations)
    pair.compare(lambda env: env.set_attr("nickname", ["a", "b", "c"]))
    pair.compare(lambda env: env.set_attr("mood", "calm"))
    assert pair.compare(lambda env: env.get_attr("nickname")) == ("a", "b", "c")
    assert pair.compare(lambda env: env.call("mood")) == ("calm",) * ENVS
    with pytest.raises(ValueError, match="equal to the number of environments"):
        pair.ours.set_attr("nickname", ["a", "b"])


def test_gymnasiums_own_statistics_come_out_the_same(pair: Pair) -> None:
    if pair.mode is AutoresetMode.DISABLED:
        return  # the wrapper counts by itself when an episode begins
    wrapped = Pair(pair.mode, *(RecordEpisodeStatistics(env) for env in (pair.ours, pair.theirs)))
    rng = np.random.default_rng(0)
    wrapped.compare(lambda env: env.reset(seed=1))
    ends = 0
    for _ in range(85):
        actions = rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)
        ours, theirs = (env.step(actions)[4] for env in (wrapped.ours, wrapped.theirs))
        assert ours.keys() == theirs.keys()
        if "episode" in ours:
            ends += 1
            for name in ("r", "l"):
                assert_same(ours["episode"][name], theirs["episode"][name])
    assert ends >= 2


def test_make_vec(toy_home: Path) -> None:
    register_envs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec("vlarig/toy", num_envs=4, workers=2, task="reach_red", autoreset_mode="SameStep", images=False)
    assert isinstance(env, RemoteVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.spec is not None
    assert env.spec.id == "vlarig/toy"
    _, infos = env.reset(seed=0)
    assert all("/reach_red/" in key for key in infos["key"])
    env.close()


def test_environments_share_workers_and_these_work_at_the_same_time(
    toy_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = replace(TOY_SUITE, name="meeting", adapter="toy.meeting:MeetingEnv")
    monkeypatch.setattr(gym_env, "load_suite", lambda name: meeting)
    monkeypatch.setenv("VLARIG_TEST_MEETING", f"{tmp_path}:2")
    env = RemoteVectorEnv("meeting", 2, workers=2, images=False)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((2, 3), np.float32))
    env.close()
    assert [len(list((tmp_path / str(step)).iterdir())) for step in range(3)] == [2, 2, 2]


def test_more_environments_than_workers_share_processes(env: RemoteVectorEnv) -> None:
    env.reset(seed=0)
    processes = [each.worker.pid for each in env._pool.envs]
    assert len(processes) == ENVS
    assert len(set(processes)) == 2


def test_returned_arrays_are_the_callers_by_default(toy_home: Path) -> None:
    for copy in (True, False):
        env = RemoteVectorEnv("toy", 2, workers=1, copy=copy)
        before, _ = env.reset(seed=0)
        kept = {"state": before["state"].copy(), "ego": before["images"]["ego"].copy()}
        after = env.step(np.ones((2, 3), np.float32))[0]
        for name, old, new in (
            ("state", before["state"], after["state"]),
            ("ego", before["images"]["ego"], after["images"]["ego"]),
        ):
            assert np.shares_memory(old, new) is not copy
            assert np.array_equal(old, kept[name]) is copy
        env.close()


def test_bad_actions_are_refused_before_anything_moves(env: RemoteVectorEnv) -> None:
    env.reset(seed=0)
    bad = np.zeros((ENVS, 3), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(VlarigError, match="the action 'dy' of step 2 is nan"):
        env.step(bad)
    with pytest.raises(VlarigError, match=r"actions have shape \[2, 3\]; give float32\[3, 3\]"):
        env.step(bad[:2])
    infos = env.step(np.zeros((ENVS, 3), np.float32))[4]
    assert infos["step"].tolist() == [1] * ENVS


def test_an_episode_that_is_over_must_be_reset_where_autoreset_is_off(toy_home: Path) -> None:
    env = RemoteVectorEnv("two_ways", 2, workers=1, images=False, autoreset_mode="Disabled")
    steps = np.zeros((2, 3), np.float32)
    with pytest.raises(VlarigError, match="call reset first"):
        env.step(steps)
    with pytest.raises(VlarigError, match="reset all of them once"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    for _ in range(20):
        env.step(steps)
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(20):
        result = env.step(steps)
    assert result[3].tolist() == [False, True]
    with pytest.raises(VlarigError, match="the episodes of the environments 1 are over"):
        env.step(steps)
    for mask in ([False, True], np.array([0, 1]), np.array([False, False]), np.array([True])):
        with pytest.raises(VlarigError, match=r"give a numpy array, bool\[2\], with a True in it"):
            env.reset(options={"reset_mask": mask})
    env.reset(options={"reset_mask": np.array([False, True])})
    assert env.step(steps)[4]["step"].tolist() == [21, 1]
    env.close()


def test_closed_is_closed(env: RemoteVectorEnv) -> None:
    env.reset(seed=0)
    env.close()
    env.close()
    for question in (env.reset, lambda: env.step(np.zeros((ENVS, 3), np.float32))):
        with pytest.raises(ClosedEnvironmentError):
            question()


def test_a_program_that_forgets_to_close_ends(toy_home: Path) -> None:
    program = (
        "from vlarig.harness import RemoteVectorEnv\n"
        "class Env(RemoteVectorEnv):\n"
        "    __del__ = RemoteVectorEnv.close  # as Gymnasium's own did up to 1.2\n"
        "env = Env('toy', 2)\n"
        "env.reset()\n"
        "print(*(env.worker.pid for env in env._pool.envs))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [number for number in done.stdout.split() if Path("/proc", number).exists()]


def test_options_that_do_not_exist_are_refused_in_one_sentence(toy_home: Path) -> None:
    with pytest.raises(VlarigError, match=r"autoreset_mode is 'SomeStep'; give one of NextStep, SameStep, Disabled"):
        RemoteVectorEnv("toy", 2, autoreset_mode="SomeStep")
    with pytest.raises(VlarigError, match="0 environments"):
        RemoteVectorEnv("toy", 0)
    with pytest.raises(VlarigError, match="did you mean reach_red"):
        RemoteVectorEnv("toy", 2, task="reach_rd")


@pytest.fixture
def faults(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the fault that the faulty suite's simulators have from now on; they are replaced at once."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)

    def set_fault(fault: str) -> None:
        folder = toy_home / fault.replace(":", "-").replace("/", "-")
        folder.mkdir()
        monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))
        monkeypatch.setenv("VLARIG_TEST_FAULT", fault)

    return set_fault


def play_faulty() -> list[Any]:
    """Two episodes in each of three environments on two workers; the middle one's first episode is the one that fails."""
    env = RemoteVectorEnv("faulty", ENVS, workers=2, autoreset_mode="SameStep")
    results: list[Any] = [
        env.reset(seed=0, options=[{"task": "reach_red", "initial_state": initial_state} for initial_state in range(ENVS)])
    ]
    rng = np.random.default_rng(0)
    try:
        results += [env.step(rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)) for _ in range(60)]
    except VlarigError as error:
        results.append(str(error))
        results.append(env.reset(seed=0, options={"task": "reach_blue"})[1]["key"].tolist())
        results.append(env.step(np.zeros((ENVS, 3), np.float32))[4]["step"].tolist())
    env.close()
    return results


@pytest.mark.slow
def test_crashes_up_to_the_bound_are_invisible(faults: Callable[[str], None]) -> None:
    faults("crash:reach_red/1:0")
    undisturbed = play_faulty()
    faults("crash:reach_red/1:2")
    assert_same(play_faulty(), undisturbed)
    faults("crash:reach_red/1:3")
    *_, error, keys, steps = play_faulty()
    assert "faulty/standard@1/reach_red/base/1/0 failed 3 times" in error
    assert all("/reach_blue/" in key for key in keys)
    assert steps == [1] * ENVS


@pytest.mark.slow
def test_the_embedded_suite(tabletop: object) -> None:
    mode = AutoresetMode.SAME_STEP
    ours = RemoteVectorEnv("tabletop", 2, workers=1, autoreset_mode=mode, images=False)
    theirs = SyncVectorEnv([lambda: RemoteEnv("tabletop", images=False)] * 2, autoreset_mode=mode)
    rendered = RemoteVectorEnv("tabletop", 2, workers=1, autoreset_mode=mode)
    assert_same(ours.reset(seed=2), theirs.reset(seed=2))
    observations, _ = rendered.reset(seed=2)
    assert rendered.observation_space.contains(observations)
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(245):
        actions = rng.uniform(-1, 1, (2, 7)).astype(np.float32)
        result = ours.step(actions)
        assert_same(result, theirs.step(actions), where=f"step {step}")
        ends += int((result[2] | result[3]).sum())
        if step < 3:
            shown = rendered.step(actions)
            assert shown[0]["images"]["cam_left_wrist"].shape == (2, 1, 128, 128, 3)
            assert_same(shown[0]["state"], result[0]["state"])
    assert ends >= 2
    for env in (ours, theirs, rendered):
        env.close()
