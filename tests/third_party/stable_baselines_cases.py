"""Our suites under Stable-Baselines3; run by ``tests/harness/test_stable_baselines.py`` in an environment that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import check_for_nested_spaces, is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, VecTransposeImage

from vlarig.envs.api import Snapshot, StepResult
from vlarig.envs.errors import VlarigError
from vlarig.harness import register_envs
from vlarig.harness.gym.env import RemoteEnv
from vlarig.harness.gym.stable_baselines import StableBaselinesEnv

ENVS = 3


class Shown(gymnasium.ObservationWrapper):
    """The same as a single env, the way one would write it with Gymnasium's wrappers."""

    def __init__(self, env: gymnasium.Env, shown: str) -> None:
        super().__init__(env)
        self._shown = shown
        space = env.observation_space
        if shown == "state":
            self.observation_space = space["state"]
        elif shown == "privileged state":
            size = space["state"].shape[0] + space["privileged"].shape[0]
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        else:
            views = {view: gymnasium.spaces.Box(0, 255, box.shape[1:], np.uint8) for view, box in space["images"].items()}
            self.observation_space = gymnasium.spaces.Dict({"state": space["state"], **views})

    def observation(self, observation: Any) -> Any:
        if self._shown == "state":
            return observation["state"]
        if self._shown == "privileged state":
            return np.concatenate([observation["state"], observation["privileged"]])
        return {"state": observation["state"], **{view: frames[0] for view, frames in observation["images"].items()}}


def single(shown: str, **options: Any) -> gymnasium.Env:
    return Shown(RemoteEnv("toy", images=shown == "images", privileged=shown == "privileged state", **options), shown)


@pytest.fixture
def make(toy_home: Path) -> Iterator[Callable[..., StableBaselinesEnv]]:
    made: list[StableBaselinesEnv] = []

    def make_env(suite: str = "toy", num_envs: int = ENVS, **options: Any) -> StableBaselinesEnv:
        made.append(StableBaselinesEnv(suite, num_envs, workers=1, **options))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Equal to the bit; a number may be numpy's."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        np.testing.assert_array_equal(ours, theirs, err_msg=where)
    elif isinstance(theirs, list):
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{where}[{index}]")
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("shown", ["state", "privileged state", "images"])
def test_it_says_what_stable_baselines3s_own_env_says(make: Callable[..., StableBaselinesEnv], shown: str) -> None:
    ours = make(shown=shown)
    theirs = DummyVecEnv([lambda: single(shown)] * ENVS)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        assert env.seed(5) == [5, 6, 7]
        env.set_options([{"task": "reach_red", "initial_state": number} for number in range(ENVS)])
    assert_same(ours.reset(), theirs.reset(), "reset")
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(85):
        actions = rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)
        (*mine, infos), (*others, their_infos) = ours.step(actions), theirs.step(actions)
        assert_same(mine, others, f"step {step}")
        assert_same(infos, their_infos, f"infos of step {step}")
        shared = [{name: value for name, value in info.items() if name != "instruction"} for info in ours.reset_infos]
        assert_same(shared, theirs.reset_infos, f"reset infos of step {step}")
        ends += int(mine[2].sum())
        for info, done in zip(infos, mine[2], strict=True):
            assert ("terminal_observation" in info) == done
    assert ends == 2 * ENVS
    assert_same(ours.reset(), theirs.reset(), "reset without a seed")
    theirs.close()


def test_a_task_that_is_solved_is_no_timeout(make: Callable[..., StableBaselinesEnv]) -> None:
    env = make(shown="privileged state", num_envs=1)
    env.seed(0)
    seen, done, info = env.reset(), [False], [{}]
    while not done[0]:
        last = seen
        goal, position = seen[:, 3:5], seen[:, 5:7]
        seen, _, done, info = env.step(np.concatenate([np.clip((goal - position) * 10, -1, 1), [[0.0]]], 1).astype(np.float32))
    terminal = info[0]["terminal_observation"]
    assert info[0]["is_success"]
    assert not info[0]["TimeLimit.truncated"]
    assert np.linalg.norm(terminal[3:5] - terminal[5:7]) < 0.1
    assert np.linalg.norm(terminal[5:7] - last[0, 5:7]) < 0.15
    assert np.linalg.norm(seen[0, 3:5] - seen[0, 5:7]) > 0.5
    assert env.reset_infos[0]["instruction"].startswith("move the point to the ")


def test_its_checks_are_content(make: Callable[..., StableBaselinesEnv]) -> None:
    env = single("state")
    check_env(env)
    env.close()
    space = make(shown="images").observation_space
    check_for_nested_spaces(space)
    assert is_image_space(space["ego"])
    with pytest.raises(VlarigError, match="shown is 'image'"):
        make(shown="image")


def test_attributes_and_methods_of_chosen_environments(make: Callable[..., StableBaselinesEnv]) -> None:
    env = make(shown="images", render_mode="rgb_array")
    env.set_attr("mood", "calm", indices=[0, 2])
    assert env.get_attr("mood", indices=[0, 2]) == ["calm", "calm"]
    assert env.has_attr("mood") is False
    env.set_attr("mood", "bold", indices=1)
    assert env.get_attr("mood") == ["calm", "bold", "calm"]
    assert env.env_is_wrapped(Monitor) == [False] * ENVS
    ((_, info),) = env.env_method("reset", indices=1, options={"task": "reach_red", "initial_state": 4})
    assert info["key"] == "toy/standard@1/reach_red/base/4/0"
    seen = env.reset()
    tiles = env.render()
    assert tiles.shape == (2 * 64, 2 * 64, 3)
    np.testing.assert_array_equal(tiles[:64, :64], seen["ego"][0])
    assert all(np.array_equal(image, ego) for image, ego in zip(env.get_images(), seen["ego"], strict=True))


def progress(before: Snapshot, step: StepResult, after: Snapshot) -> float:
    """How much nearer the step brought the point to its goal, and a reward for being there."""
    nearer = [np.linalg.norm(each.privileged["goal"] - each.privileged["position"]) for each in (before, after)]
    return float(nearer[0] - nearer[1]) + step.success_at_end


def test_a_reward_of_ones_own_changes_no_success(make: Callable[..., StableBaselinesEnv]) -> None:
    env = make(shown="state", reward=progress, initial_state=range(4))
    plain = make(shown="state", initial_state=range(4))
    rng = np.random.default_rng(0)
    for each in (env, plain):
        each.seed(3)
        each.reset()
    rewards = []
    for _ in range(50):
        actions = rng.uniform(-1, 1, (ENVS, 3)).astype(np.float32)
        (seen, reward, dones, infos), (seen_plain, _, dones_plain, infos_plain) = env.step(actions), plain.step(actions)
        np.testing.assert_array_equal(seen, seen_plain)
        np.testing.assert_array_equal(dones, dones_plain)
        assert [info["is_success"] for info in infos] == [info["is_success"] for info in infos_plain]
        rewards.append(reward)
    assert (np.abs(np.array(rewards)) > 1e-3).any(axis=0).all()


def test_ppo_learns_from_images(make: Callable[..., StableBaselinesEnv]) -> None:
    model = PPO("MultiInputPolicy", make(shown="images"), n_steps=8, batch_size=12, n_epochs=1, device="cpu")
    assert isinstance(model.get_env(), VecTransposeImage)
    model.learn(48)
    assert model.num_timesteps == 48


def test_ppo_reaches_the_toys_goal(make: Callable[..., StableBaselinesEnv]) -> None:
    env = VecMonitor(make(num_envs=8, shown="privileged state", reward=progress), info_keywords=("is_success",))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, gamma=0.9, learning_rate=2e-3, seed=0, device="cpu")

    def successes() -> int:
        env.seed(100)
        solved: list[bool] = []
        evaluate_policy(
            model, env, 20, callback=lambda here, _: solved.extend([here["info"]["is_success"]] * bool(here["done"]))
        )
        return sum(solved)

    assert successes() <= 4
    model.learn(4096)
    assert successes() >= 16


def test_ppo_trains_saves_and_loads_on_the_embedded_suite(
    tabletop: object, make: Callable[..., StableBaselinesEnv], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    register_envs()
    env = make("tabletop", 2, shown="privileged state", task="push_to", initial_state=range(100, 200))
    assert env.observation_space.shape == (8 + 4 * 7 + 2 * 3,)
    wrapped = VecNormalize(VecMonitor(env))
    model = PPO("MlpPolicy", wrapped, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(128)
    assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=wrapped, device="cpu")
    seen = wrapped.reset()
    np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 192
