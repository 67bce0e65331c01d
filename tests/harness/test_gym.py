"""Suites as Gymnasium environments."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toy.env import ToyEnv
from toy.suite import TOY_SUITE

from vlarig.envs.api import Needs, Snapshot, StepResult
from vlarig.envs.errors import VlarigError
from vlarig.harness import register_envs
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.durable_env import DurableEnv
from vlarig.harness.gym.env import RemoteEnv
from vlarig.harness.workers import local_workers


@pytest.fixture
def env(toy_home: Path) -> gymnasium.Env:
    register_envs()
    env = gymnasium.make("vlarig/toy", render_mode="rgb_array")
    yield env
    env.close()


def test_gymnasiums_own_checker_is_content(env: gymnasium.Env) -> None:
    check_env(env.unwrapped)


def test_an_episode_is_the_same_as_in_the_simulators_own_process(env: gymnasium.Env) -> None:
    (episode,) = TOY_SUITE.episodes(["reach_blue"], per_task=1)
    observation, _ = env.reset(options={"episode": episode})
    local = ToyEnv()
    expected, _ = local.reset(options={"episode": episode})
    rng = np.random.default_rng(0)
    for _ in range(50):
        np.testing.assert_array_equal(observation["images"]["ego"], expected["images"]["ego"])
        np.testing.assert_array_equal(env.render(), expected["images"]["ego"][-1])
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        expected, *others = local.step(action)
        assert not info.pop("is_success")
        assert [reward, terminated, truncated, info] == others
        if terminated or truncated:
            break
    assert truncated


def test_the_same_seed_gives_the_same_sequence_of_episodes(env: gymnasium.Env) -> None:
    def keys() -> list[str]:
        first = env.reset(seed=11)[1]["key"]
        return [first] + [env.reset()[1]["key"] for _ in range(4)]

    assert keys() == keys()
    assert len(set(keys())) > 2


def test_a_task_and_an_initial_state_can_be_fixed(env: gymnasium.Env) -> None:
    assert env.reset(options={"task": "reach_red", "initial_state": 3})[1]["key"] == "toy/standard@1/reach_red/base/3/0"
    with pytest.raises(VlarigError, match="did you mean reach_red"):
        env.reset(options={"task": "reach_rd"})


def test_initial_states_to_sample_from_can_be_named(env: gymnasium.Env) -> None:
    with gymnasium.make("vlarig/toy", task="reach_red", initial_state=range(1000, 1003), images=False) as some:
        initial_states = {some.reset(seed=seed)[1]["key"].split("/")[-2] for seed in range(20)}
    assert initial_states == {"1000", "1001", "1002"}
    with pytest.raises(VlarigError, match="initial_state names no initial state"):
        gymnasium.make("vlarig/toy", initial_state=[])


def test_the_simulators_truth_can_be_shown_and_a_reward_made_of_it(toy_home: Path) -> None:
    def reward(before: Snapshot, step: StepResult, after: Snapshot) -> float:
        return 100 * (after.step - before.step) + float(after.privileged["position"][0]) + step.reward

    register_envs()
    with gymnasium.make("vlarig/toy", images=False, privileged=True, reward=reward) as env:
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        goal, position = np.split(observation["privileged"], 2)  # the names are sorted
        np.testing.assert_array_equal(position, observation["state"][:2])
        assert np.linalg.norm(goal - position) > 0.6
        assert "images" not in observation
        observation, given, *_ = env.step(np.array([1, 0, 0], np.float32))
        assert given == pytest.approx(100 + observation["privileged"][2])
    with gymnasium.make("vlarig/toy", images=False, privileged=lambda snapshot: np.array([snapshot.step])) as env:
        assert env.reset(seed=0)[0]["privileged"].tolist() == [0]
        assert env.step(np.zeros(3, np.float32))[0]["privileged"].tolist() == [1]
        assert env.observation_space["privileged"].shape == (1,)


def test_a_truth_that_differs_from_task_to_task_is_reported(toy_home: Path) -> None:
    register_envs()

    def truth(snapshot: Snapshot) -> np.ndarray:
        return np.zeros(2 if "red" in snapshot.instruction else 3)

    env = gymnasium.make("vlarig/toy", images=False, privileged=truth)
    with pytest.raises(VlarigError, match=r"the tasks of 'toy' differ in what is there; name one task"):
        for seed in range(20):
            env.reset(seed=seed)
    env.close()


def test_images_can_be_rendered_though_none_are_observed(toy_home: Path) -> None:
    register_envs()
    with gymnasium.make("vlarig/toy", images=False, render_mode="rgb_array") as env:
        observation, _ = env.reset(seed=0)
        assert "images" not in observation
        assert env.render().shape == (64, 64, 3)


def test_crashes_up_to_the_bound_are_invisible(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(times: int) -> tuple[list[str], RemoteEnv]:
        counts = toy_home / f"counts-{times}"
        counts.mkdir()
        monkeypatch.setenv("VLARIG_TEST_COUNTS", str(counts))
        monkeypatch.setenv("VLARIG_TEST_FAULT", f"crash:reach_red/1:{times}")
        env = RemoteEnv("faulty", task="reach_red", initial_state=1, images=False)
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        digests = []
        try:
            digests.extend(env.step(rng.uniform(-1, 1, 3).astype(np.float32))[4]["state_digest"] for _ in range(20))
        except VlarigError as error:
            digests.append(str(error))
        return digests, env

    undisturbed, env = play(0)
    env.close()
    disturbed, env = play(2)
    env.close()
    assert disturbed == undisturbed
    (*before, error), env = play(3)
    assert before == undisturbed[:11]
    assert re.fullmatch(r"faulty/\S+/reach_red/base/1/0 failed 3 times; the last time: .*SIGABRT; reset to go on .*", error)
    with pytest.raises(VlarigError, match="call reset first"):
        env.step(np.zeros(3, np.float32))
    env.reset()
    assert env.step(np.zeros(3, np.float32))[4]["step"] == 1
    env.close()


def test_an_interrupted_step_leaves_the_episode_where_it_was(toy_home: Path) -> None:
    steps = np.ones((1, 3), np.float32)

    async def play(interrupted: bool) -> str:
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            env = DurableEnv(worker, 0, Needs(images=False))
            await env.begin(TOY_SUITE.episodes(["reach_red"], per_task=1)[0])
            await env.step(steps)
            if interrupted:
                lost = asyncio.create_task(env.step(-steps))
                await asyncio.sleep(0)  # it has been sent
                lost.cancel()
                await asyncio.wait([lost])
            return (await env.step(steps)).snapshot.state_digest

    assert asyncio.run(play(True)) == asyncio.run(play(False))


def test_a_protocol_can_be_chosen(toy_home: Path) -> None:
    register_envs()
    with gymnasium.make("vlarig/two_ways", protocol="quick") as env:
        observation, info = env.reset(seed=0)
        assert info["key"].startswith("two_ways/quick@1/")
        assert info["step"] == 0
        assert observation["images"]["ego"].shape == (1, 32, 32, 3)
        assert env.observation_space.contains(observation)
    with pytest.raises(VlarigError, match="unknown protocol 'quikc' in suite 'two_ways'; did you mean quick"):
        gymnasium.make("vlarig/two_ways", protocol="quikc")


def test_an_option_that_does_not_exist_gets_the_nearest_one(toy_home: Path) -> None:
    register_envs()
    with pytest.raises(VlarigError, match="vlarig/toy has no option 'taks'; did you mean task"):
        gymnasium.make("vlarig/toy", taks="reach_red")
    with pytest.raises(VlarigError, match="vlarig/toy has no option 'worker'; did you mean workers"):
        gymnasium.make_vec("vlarig/toy", num_envs=2, worker=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_mode": "human"}, "render_mode is 'human'; expected 'rgb_array' or None"),
        ({"reward": 3}, r"reward is 3; give a function\(before, step, after\)"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_before_anything_starts(toy_home: Path, options: dict, message: str) -> None:
    with pytest.raises(VlarigError, match=message):
        RemoteEnv("toy", **options)


def test_a_reset_does_not_begin_another_task_for_a_misspelt_option(env: gymnasium.Env) -> None:
    with pytest.raises(VlarigError, match="reset has no option 'taks'; did you mean task"):
        env.reset(options={"taks": "reach_red"})


def test_bad_actions_are_refused_and_the_episode_goes_on(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    with pytest.raises(VlarigError, match="is nan"):
        env.unwrapped.step(np.array([np.nan, 0, 0], np.float32))
    assert env.step(np.zeros(3, np.float32))[4]["step"] == 1
