"""A value head that is fitted to a whole rollout before the policy learns of it, by ridge regression.

A linear read-out has a best fit, which gradient steps of a few epochs do not reach. Its values of the chunks that it was fitted to
would hide what their episodes achieved. So each half of the envs gets the values of a fit to the other half. How strongly weights are
held near 0 is chosen by how well these values predict the returns; at the greatest strength all values are the mean.

Shapes: ``C`` chunks, ``D`` features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Strengths that are compared, as shares of the number of chunks, for features of mean 0 and deviation 1. The last is all but infinite.
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 1e6)


@dataclass(frozen=True)
class Fit:
    """Values of a rollout.

    Attributes:
        values: ``float32[C]``, of each chunk, by the fit to the half of the envs that it is not of.
        weight: ``float32[D]``, of a fit to all.
        bias: The fit's value where all features are 0.
    """

    values: Tensor
    weight: Tensor
    bias: float


def fit(features: Tensor, returns: Tensor, envs: Tensor) -> Fit:
    """Fit a linear read-out to returns.

    Args:
        features: ``float32[C, D]``.
        returns: ``float32[C]``.
        envs: ``int64[C]``, the env of each chunk, of two or more.
    """
    deviation, mean = torch.std_mean(features.double(), dim=0)
    scaled = (features.double() - mean) / deviation.clamp(min=1e-6)
    targets, first = returns.double(), envs % 2 == 0
    tried = []
    for ridge in RIDGES:
        values = torch.empty_like(targets)
        for half in (first, ~first):
            weight, bias = _solve(scaled[~half], targets[~half], ridge)
            values[half] = scaled[half] @ weight + bias
        tried.append((float((values - targets).square().mean()), ridge, values))
    _, ridge, values = min(tried, key=lambda each: each[0])
    weight, bias = _solve(scaled, targets, ridge)
    weight = weight / deviation.clamp(min=1e-6)
    return Fit(values.float(), weight.float(), float(bias - mean @ weight))


def _solve(features: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights and bias of the least squares, the bias free."""
    centre, mean = features.mean(0), targets.mean()
    centred = features - centre
    held = ridge * len(targets) * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    weight = torch.linalg.solve(centred.T @ centred + held, centred.T @ (targets - mean))
    return weight, mean - centre @ weight
