"""A value head that is fitted to a rollout."""

from __future__ import annotations

import torch

from vlarig.rl.advantages import fit
from vlarig.rl.loss import explained_variance


def sampled(envs: int = 16, chunks: int = 20, features: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(envs * chunks, features, generator=generator) * 3 + 5
    noise = torch.randn(envs * chunks, generator=generator)
    return numbers, noise, torch.arange(envs).repeat_interleave(chunks)


def test_what_is_linear_is_found_and_the_weights_say_it_again() -> None:
    features, noise, envs = sampled()
    returns = 0.2 * features[:, 0] - 0.1 * features[:, 3] + 0.5 + 0.05 * noise
    found = fit(features, returns, envs)
    assert explained_variance(found.values, returns) > 0.98
    torch.testing.assert_close(features @ found.weight + found.bias, returns, atol=0.25, rtol=0)


def test_where_nothing_can_be_foretold_the_values_are_the_mean() -> None:
    features, returns, envs = sampled(features=100)
    found = fit(features, returns, envs)
    assert explained_variance(found.values, returns) > -0.02
    assert found.values.std() < 0.1


def test_an_envs_own_returns_do_not_reach_its_values() -> None:
    features, noise, envs = sampled()
    returns = features[:, 1] + noise
    before = fit(features, returns, envs).values
    after = fit(features, torch.where(envs == 4, returns + 2, returns), envs).values
    assert torch.equal(before[envs == 4], after[envs == 4])
    assert not torch.equal(before[envs == 5], after[envs == 5])


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features, noise, envs = sampled()
    features[:, 2] = 7.0
    found = fit(features, features[:, 0] + 0.01 * noise, envs)
    assert found.weight[2] == 0
    assert explained_variance(found.values, features[:, 0]) > 0.99
