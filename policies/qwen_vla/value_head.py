"""The value head: a linear read-out of the backbone's mean state, through which no gradient passes (paper, section 4.2).

Where proprioception goes to the action expert and not into the prompt, the backbone's states do not hold it, and the head reads it
beside them (ours).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .projections import Float32Linear


class ValueHead(nn.Module):
    """The value of an observation, from the mean of its valid tokens' states and the robot's, in float32.

    It starts at zero: before the first update every state is worth nothing, as under a sparse reward most are.
    """

    def __init__(self, width: int, state_numbers: int = 0) -> None:
        super().__init__()
        self.readout = Float32Linear(width + state_numbers, 1)

    def reset(self) -> None:
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, states: Tensor, valid: Tensor, state: Tensor | None = None) -> Tensor:
        """``float32[B]``; arguments as for :meth:`features`."""
        return self.readout(self.features(states, valid, state)).squeeze(-1)

    def features(self, states: Tensor, valid: Tensor, state: Tensor | None = None) -> Tensor:
        """What a value is read from, ``float32[B, D + state_numbers]``.

        Args:
            states: ``[B, S, D]`` of the backbone; they are detached.
            valid: ``bool[B, S]``, false at padding.
            state: ``float32[B, state_numbers]`` of the robot, where there are any.
        """
        counted = valid.unsqueeze(-1)
        total = states.detach().float().masked_fill(~counted, 0.0).sum(dim=1)
        mean = total / counted.sum(dim=1).clamp(min=1)
        return mean if state is None else torch.cat([mean, state], dim=1)
