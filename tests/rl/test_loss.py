"""PPO's losses: their values by hand, their gradients, and what the metrics say."""

from __future__ import annotations

import math

import pytest
import torch

from vlarig.rl.loss import explained_variance, policy_loss, value_loss


def test_unchanged_weights_give_ratio_one_and_no_divergence() -> None:
    old = torch.tensor([-3.0, 40.0])
    found = policy_loss(old.clone().requires_grad_(), old, torch.tensor([1.0, -2.0]))
    assert found.ratio.tolist() == [1.0, 1.0]
    assert (float(found.approximate_kl), float(found.clip_fraction), float(found.dual_clip_fraction)) == (0.0, 0.0, 0.0)
    assert found.loss.item() == 0.5
    found.loss.backward()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # within the range: the policy gradient, ratio times advantage
        (1.5, 2.0, -2.4, 0.0),  # beyond it, where more is no gain
        (0.5, 2.0, -1.0, -1.0),  # beyond it on the bad side: it is to come back
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),
        (4.0, -2.0, 6.0, 0.0),  # the dual clip: 3 times the advantage
    ],
)
def test_the_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    difference = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found = policy_loss(difference, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64))
    assert float(found.loss.detach()) == pytest.approx(loss)
    found.loss.backward()
    assert difference.grad is not None
    assert float(difference.grad) == pytest.approx(slope)
    assert float(found.clip_fraction) == float(abs(ratio - 1) > 0.2)
    assert float(found.dual_clip_fraction) == float(ratio == 4.0)


def test_without_the_dual_clip_the_loss_has_no_bound() -> None:
    found = policy_loss(torch.tensor([math.log(10.0)]), torch.zeros(1), torch.tensor([-2.0]), dual_clip=None)
    assert float(found.loss) == pytest.approx(20)


def test_the_divergence_is_near_the_true_one() -> None:
    """Of two normal distributions of deviation 1, .1 apart: 0.005."""
    sampled = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    old, new = -0.5 * sampled.square(), -0.5 * (sampled - 0.1).square()
    found = policy_loss(new, old, torch.ones_like(sampled))
    assert float(found.approximate_kl) == pytest.approx(0.005, abs=2e-4)


def test_the_value_loss_is_half_the_larger_error() -> None:
    old, returns = torch.zeros(3), torch.tensor([1.0, 1.0, 1.0])
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss, clip_fraction = value_loss(values, old, returns)
    assert float(loss.detach()) == pytest.approx((0.9**2 + 0.8**2 + 1.5**2) / 6)
    loss.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-0.3, 0.0, -0.5])
    assert float(clip_fraction) == pytest.approx(2 / 3)
    assert float(value_loss(values, old, returns, clip=None)[0].detach()) == pytest.approx((0.9**2 + 0.5**2 + 1.5**2) / 6)


def test_explained_variance() -> None:
    returns = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((4,), 0.3), returns) == 0
    assert explained_variance(1 - returns, returns) == -3
    assert math.isnan(explained_variance(returns, torch.zeros(4)))
