"""The value head: a linear read-out of the backbone's mean state, through which no gradient passes (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn

from .projections import Float32Linear


class ValueHead(nn.Module):
    """The value of an observation, from the mean of its valid tokens' states, in float32.

    It starts at zero: before the first update every state is worth nothing, as under a sparse reward most are.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readout = Float32Linear(width, 1)

    def reset(self) -> None:
        """Set the weights to zero."""
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        """``float32[B]``.

        Args:
            states: ``[B, S, D]`` of the backbone; they are detached.
            valid: ``bool[B, S]``, false at padding.
        """
        counted = valid.unsqueeze(-1)
        total = states.detach().float().masked_fill(~counted, 0.0).sum(dim=1)
        return self.readout(total / counted.sum(dim=1).clamp(min=1)).squeeze(-1)
