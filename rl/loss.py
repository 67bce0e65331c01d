"""PPO's losses, and the numbers by which a user sees whether they are sound (paper, equations 6 and 7).

Shapes: ``B`` chunks of a minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped loss of a minibatch.

    Attributes:
        loss: ``float32`` scalar.
        ratio: ``float32[B]``, how much more probable each chunk is than when it was sampled; without a gradient.
        approximate_kl: The KL divergence from the old policy by Schulman's low-variance estimate, ``ratio - 1 - log ratio``
            (joschu.net/blog/kl-approx.html).
        distance: Mean distance of the log-probabilities from the old ones.
        clip_fraction: Share of the chunks whose ratio is outside the clip range.
        dual_clip_fraction: Share of the chunks that the dual clip bounds.
    """

    loss: Tensor
    ratio: Tensor
    approximate_kl: Tensor
    distance: Tensor
    clip_fraction: Tensor
    dual_clip_fraction: Tensor


def policy_loss(
    log_probability: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2, dual_clip: float | None = 3.0
) -> PolicyLoss:
    """The clipped surrogate, negated (equation 6).

    Where an advantage is negative and the ratio is large, the clipped surrogate has no bound; the dual clip holds it at
    ``dual_clip`` times the advantage (Ye et al. 2020, "Mastering complex control in MOBA games"; RLinf's ``clip_ratio_c`` is 3).

    Args:
        log_probability: ``float32[B]``, under the present weights.
        old: ``float32[B]``, when the chunks were sampled.
        advantages: ``float32[B]``.
        clip: How far the ratio may profitably go from 1; .2 is the paper's.
        dual_clip: Above 1; ``None`` for the paper's loss as it is printed.
    """
    difference = log_probability - old
    ratio = difference.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    bounded = torch.zeros_like(ratio, dtype=torch.bool)
    if dual_clip is not None:
        bounded = (advantages < 0) & (surrogate < dual_clip * advantages)
        surrogate = torch.where(bounded, dual_clip * advantages, surrogate)
    apart, difference = ratio.detach(), difference.detach()
    return PolicyLoss(
        -surrogate.mean(),
        apart,
        (apart - 1 - difference).mean(),
        difference.abs().mean(),
        ((apart - 1).abs() > clip).float().mean(),
        bounded.float().mean(),
    )


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None = 0.2) -> tuple[Tensor, Tensor]:
    """Half the mean squared error, the larger one of the value's own and the clipped value's (equation 7).

    Returns:
        The loss, and the share of the values that are further from the old ones than the clip range, two ``float32`` scalars.

    Args:
        values: ``float32[B]``, under the present weights.
        old: ``float32[B]``, when the chunks were sampled.
        returns: ``float32[B]``.
        clip: How far a value may profitably go from the old one; .2 is RLinf's. ``None``: no clipping.
    """
    errors = (values - returns).square()
    if clip is None:
        return 0.5 * errors.mean(), torch.zeros_like(errors.detach().mean())
    near = old + (values - old).clamp(-clip, clip)
    errors = torch.maximum(errors, (near - returns).square())
    return 0.5 * errors.mean(), ((values - old).detach().abs() > clip).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """How much of the returns' variance the values explain: 1 all of it, 0 or less nothing; not a number where returns do not vary."""
    variance = returns.var(correction=0)
    return float("nan") if variance == 0 else float(1 - (returns - values).var(correction=0) / variance)
