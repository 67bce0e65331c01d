"""What the backbone makes of a batch of prompts.

Shapes: ``B`` samples, ``S`` prompt tokens, ``D`` the backbone's width, ``C`` samples of a batch that have a chunk to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Context:
    """The backbone's output for a batch of prompts; enough for the action expert and the value head.

    Attributes:
        states: ``[B, S, D]`` in the precision that the model computes in, zero at padding.
        valid: ``bool[B, S]``.
        positions: ``int64[3, B, S]``.
    """

    states: Tensor
    valid: Tensor
    positions: Tensor

    @classmethod
    def padded(cls, states: Sequence[Tensor], positions: Sequence[Tensor]) -> Context:
        """Of several samples, states ``[S, D]`` and positions ``int64[3, S]`` each, as one batch."""
        together = pad_sequence(list(states), batch_first=True)
        lengths = torch.tensor([len(each) for each in states])
        places = pad_sequence([each.T for each in positions], batch_first=True).permute(2, 0, 1)
        return cls(together, torch.arange(together.shape[1]) < lengths[:, None], places.contiguous())

    def of(self, samples: Tensor) -> Context:
        """Those of some samples, ``int64[C]``."""
        return Context(self.states[samples], self.valid[samples], self.positions[:, samples])
