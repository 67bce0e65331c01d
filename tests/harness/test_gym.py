"""Suites as Gymnasium environments."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toy.env import ToyEnv
from toy.suite import TOY_SUITE

from vlarig.envs.errors import VlarigError
from vlarig.harness import register_envs


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


def test_a_task_and_a_start_can_be_fixed(env: gymnasium.Env) -> None:
    assert env.reset(options={"task": "reach_red", "start": 3})[1]["key"] == "toy/standard@1/reach_red/base/3/0"
    with pytest.raises(VlarigError, match="did you mean reach_red"):
        env.reset(options={"task": "reach_rd"})


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


def test_bad_actions_are_refused_and_the_episode_goes_on(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    with pytest.raises(VlarigError, match="is nan"):
        env.unwrapped.step(np.array([np.nan, 0, 0], np.float32))
    assert env.step(np.zeros(3, np.float32))[4]["step"] == 1
