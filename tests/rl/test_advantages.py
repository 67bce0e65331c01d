"""Advantages against closed forms, the sum that defines them and Stable-Baselines3's buffer, and at the seams of episodes."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from third_party.environments import HERE, environment
from torch import Tensor

from vlarig.rl.advantages import gae, normalized


def rollout(seed: int, envs: int = 5, chunks: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, values beyond, ends; an episode that ends is worth nothing beyond."""
    generator = np.random.default_rng(seed)
    rewards, values, last = generator.random((envs, chunks)), generator.random((envs, chunks)), generator.random((envs, 1))
    ended = generator.random((envs, chunks)) < 0.3
    following = np.where(ended, 0.0, np.concatenate([values[:, 1:], last], 1))
    return torch.tensor(rewards), torch.tensor(values), torch.tensor(following), torch.tensor(ended)


def test_an_advantage_is_the_sum_that_defines_it() -> None:
    rewards, values, following, ended = rollout(0)
    found = gae(rewards, values, following, ended, 0.9, 0.8)
    for env in range(5):
        for chunk in range(8):
            expected, weight = 0.0, 1.0
            for later in range(chunk, 8):
                expected += weight * float(rewards[env, later] + 0.9 * following[env, later] - values[env, later])
                weight *= 0.9 * 0.8
                if ended[env, later]:
                    break
            assert float(found[env, chunk]) == pytest.approx(expected)


def test_lambda_one_gives_discounted_returns_and_lambda_zero_the_differences() -> None:
    rewards, values, following, ended = rollout(1)
    whole = gae(rewards, values, following, ended, 0.99, 1.0) + values
    for env in range(5):
        expected = float(following[env, 7])
        for chunk in reversed(range(8)):
            beyond = float(following[env, chunk]) if ended[env, chunk] or chunk == 7 else expected
            expected = float(rewards[env, chunk]) + 0.99 * beyond
            assert float(whole[env, chunk]) == pytest.approx(expected)
    one = gae(rewards, values, following, ended, 0.99, 0.0)
    torch.testing.assert_close(one, rewards + 0.99 * following - values)


def test_success_reaches_back_to_the_episodes_beginning_and_no_further() -> None:
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])
    ended = torch.tensor([[True, False, False, True, False]])
    zeros = torch.zeros(1, 5)
    found = gae(rewards, zeros, zeros, ended, 0.99, 0.95)[0]
    torch.testing.assert_close(found, torch.tensor([0.0, (0.99 * 0.95) ** 2, 0.99 * 0.95, 1.0, 0.0]))


def test_normalised_advantages_have_mean_zero_and_deviation_one() -> None:
    found = normalized(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 3.0, math.sqrt(3.5))
    assert float(found.mean()) == pytest.approx(0, abs=1e-7)
    assert float(found.std(correction=0)) == pytest.approx(1)
    assert normalized(torch.full((2, 2), 3.0), 3.0, 0.0).abs().max() == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stable_baselines3_finds_the_same(tmp_path: Path) -> None:
    """With values beyond some ends, as at a time limit, and without."""
    rewards, values, following, ended = rollout(2, envs=16, chunks=64)
    beyond = torch.where(ended & (torch.arange(64) % 2 == 0), 0.3, following)
    given = {"rewards": rewards, "values": values, "beyond": beyond, "ended": ended, "last": following[:, -1]}
    np.savez(tmp_path / "rollout.npz", gamma=0.99, decay=0.95, **{name: each.numpy() for name, each in given.items()})
    script = HERE / "stable_baselines_advantages.py"
    python = environment("stable_baselines", with_torch=True)
    subprocess.run([python, script, tmp_path / "rollout.npz", tmp_path / "found.npz"], check=True)
    ours = gae(rewards, values, beyond, ended, 0.99, 0.95)
    with np.load(tmp_path / "found.npz") as theirs:
        np.testing.assert_allclose(ours, theirs["advantages"], atol=1e-5)
        np.testing.assert_allclose(ours + values, theirs["returns"], atol=1e-5)
