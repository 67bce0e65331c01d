"""Advantages by generalised advantage estimation over chunks (Schulman et al. 2016, "High-dimensional continuous control using GAE").

A chunk is one step of the decision process: one reward, one value, one advantage (paper, section 4.2: "chunk level").

Shapes: ``N`` envs, ``T`` chunks of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Advantages:
    """What the chunks of a rollout turned out to be worth.

    Attributes:
        advantages: ``float32[N, T]``, how much better each went than its value said.
        returns: ``float32[N, T]``, what the value is to be: advantage and value together.
    """

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, following: Tensor, ended: Tensor, gamma: float = 0.99, decay: float = 0.95
) -> Advantages:
    """Advantages and returns of a rollout.

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
    return Advantages(advantages, advantages + values)


def normalized(advantages: Tensor, mean: float, deviation: float, eps: float = 1e-8) -> Tensor:
    """Advantages of mean 0 and standard deviation 1 (RLinf's ``normalize_advantages``), from both over all of a rollout."""
    return (advantages - mean) / (deviation + eps)
