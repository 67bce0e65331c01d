"""The vision-language loss: next-token prediction on the answers of conversations (paper, section 2.5, equation 3).

Logits of a whole batch would be large: 4,096 tokens of Qwen3.5's 248,320 words are 4 GB in float32, and their gradient and their
softmax as much again. So they are computed for some tokens at a time, and once more for the gradient.

Shapes: ``B`` samples, ``S`` tokens, ``Y`` tokens to learn, ``D`` the backbone's width, ``U`` entries of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def language_loss(
    states: Tensor, head_weight: Tensor, labelled: Tensor, targets: Tensor, piece: int = 1024
) -> tuple[Tensor, int]:
    """The cross-entropy of the tokens to learn, summed, and how many they are.

    Logits are products in the weights' precision, their softmax is float32, as in transformers' ``ForCausalLMLoss``
    (loss/loss_utils.py, v5.23.0). Nothing waits for the device. Without tokens to learn the sum is a zero whose gradients are zeros.

    At most ``piece * U`` logits exist at once, in three tensors of float32 during the backward pass.

    Args:
        states: ``[B, S, D]``, last hidden states of the backbone.
        head_weight: ``[U, D]`` of the language-model head. Sharded weights must be whole here and until the backward pass: call this
            within the forward pass of the module that gathers them.
        labelled: ``int64[Y]``, places in ``[B * S]``, see :class:`~.backbone.BackboneInputs`.
        targets: ``int64[Y]``, the id that each of them predicts.
        piece: Tokens whose logits exist at once.

    Returns:
        The sum, ``float32[]``, and ``Y``.
    """
    chosen = states.flatten(0, 1).index_select(0, labelled)  # [Y, D]
    sums = [
        checkpoint(_summed, some, head_weight, wanted, use_reentrant=False, preserve_rng_state=False)
        for some, wanted in zip(chosen.split(piece), targets.split(piece), strict=True)
    ]
    return torch.stack(sums).sum(), len(targets)


def _summed(states: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of one piece, ``float32[]``."""
    logits = functional.linear(states.to(head_weight.dtype), head_weight)
    return functional.cross_entropy(logits.float(), targets, reduction="sum")
