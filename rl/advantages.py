"""What the chunks of a rollout turned out to be worth: advantages, and a value head that is fitted to returns.

A chunk is one step of the decision process: one reward, one value, one advantage (paper, section 4.2: "chunk level"). Generalised
advantage estimation is that of Schulman et al. 2016, "High-dimensional continuous control using GAE".

The fit is ridge regression to a whole rollout, before the policy learns of it. A linear read-out has a best fit, which gradient steps
of a few epochs do not reach. Its values of the chunks that it was fitted to would hide what their episodes achieved. So each half of
the envs gets the values of a fit to the other half. How strongly weights are held near 0 is chosen by how well these values predict the
returns; at the greatest strength all values are the mean.

Shapes: ``N`` envs, ``T`` chunks of a rollout, ``C = N T``; ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, following: Tensor, ended: Tensor, gamma: float = 0.99, decay: float = 0.95) -> Tensor:
    """How much better each chunk of a rollout went than its value said, ``float32[N, T]``; with the value it is the chunk's return.

    An episode's end stops the sum: nothing of the next episode, which the same env plays, counts for the chunks before it. What is
    expected beyond a chunk is ``following``. The caller decides it: the value at the observation after the chunk where the episode goes
    on, also beyond the rollout's last chunk; 0 at an end that no value is to reach over.

    Args:
        rewards: ``float32[N, T]``.
        values: ``float32[N, T]``, at the observation before each chunk.
        following: ``float32[N, T]``, the value beyond each chunk.
        ended: ``bool[N, T]``, whether the chunk ended an episode.
        gamma: Discount for each chunk; .99 is the paper's.
        decay: GAE's lambda; .95 is the paper's.
    """
    differences = rewards + gamma * following - values
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    for chunk in reversed(range(values.shape[1])):
        later = differences[:, chunk] + gamma * decay * torch.where(ended[:, chunk], 0.0, later)
        advantages[:, chunk] = later
    return advantages


def normalized(advantages: Tensor, mean: float, deviation: float, eps: float = 1e-8) -> Tensor:
    """Advantages of mean 0 and standard deviation 1 (RLinf's ``normalize_advantages``), from both over all of a rollout."""
    return (advantages - mean) / (deviation + eps)


def over_states(
    states: Sequence[tuple[str, int]], rewards: Tensor, ended: Tensor, totals: Mapping[tuple[str, int], tuple[int, int]]
) -> Tensor:
    """Advantages of whole episodes over the others from the same initial state, ``float32[N, T]``.

    Each chunk of an episode gets what the episode achieved less the mean of the others; where there is no other, less that of all of
    the rollout. An episode that the rollout cut at its end is not known yet: 0.

    Args:
        states: ``[N * T]``, task and initial state of each chunk.
        rewards: ``float32[N, T]``, 1 where an episode ended in success.
        ended: ``bool[N, T]``.
        totals: Task and state to the successes and episodes that ended in the rollout, over all processes.
    """
    advantages = torch.zeros_like(rewards)
    solved, played = (sum(each[index] for each in totals.values()) for index in (0, 1))
    count = rewards.shape[1]
    for env in range(len(rewards)):
        begin = 0
        for end in ended[env].nonzero().flatten().tolist():
            success = float(rewards[env, end])
            own = totals[states[env * count + end]]
            others, rivals = own if own[1] > 1 else (solved, played)
            advantages[env, begin : end + 1] = success - (others - success) / max(rivals - 1, 1)
            begin = end + 1
    return advantages


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
