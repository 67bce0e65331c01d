"""The losses: of actions, of answers in words, and of the objects in images.

The action loss is that of flow matching (paper, section 2.5, equations 1 and 2).

The vision-language loss is next-token prediction on the answers of conversations (paper, section 2.5, equation 3). Logits of a whole
batch would be large: 4,096 tokens of Qwen3.5's 248,320 words are 4 GB in float32, and their gradient and their softmax as much again.
So they are computed for some tokens at a time, and once more for the gradient.

The loss of marks is ours, for a backbone that begins at random. A mark is an object in an image: a name, the role that the prompt gives
it (what is to be moved, where it is to go), and its centre. The image's token that covers the centre teaches:

* The vision tower's state of the token says the object's name, through the language model's own embedding; the language model reads
  these states among those of words. So the tower learns to see alone, for a quarter of what the whole backbone would cost.
* The first two numbers of that state are the offset of the object's centre from the image's centre, to the right and down, in tokens. A
  gripper must be placed more exactly than the patch of the table that one token covers, and without this loss the model does not learn
  an object's position from the token.
* Where the tower chooses the tokens that the language model reads (:attr:`~.config.ModelConfig.kept_tokens`), it says whether there is
  an object.
* The language model's state of the token says the role where the object has one, and else its name. So the model learns to find the
  objects that the words of the prompt mean, which cloning alone does not teach in any time that two cores have.

Shapes: ``B`` samples, ``H`` steps and ``K`` channels of a chunk, ``S`` tokens, ``Y`` tokens to learn, ``v`` tokens of the vision tower,
``D`` the backbone's width, ``W`` words, ``O`` marks, ``U`` entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .tensors import precise

if TYPE_CHECKING:
    from .backbone import Embedded


def sample_losses(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The action loss of each sample, ``float32[B]``: the squared error averaged over each channel's valid steps, then over channels.

    Source: paper, equations 1 and 2. Entries outside the mask have no gradient at all, whatever their values. A sample without a valid
    entry has the loss 0.

    Args:
        predicted: Velocity from the model, ``[B, H, K]``.
        target: From :func:`target_velocity`, ``[B, H, K]``.
        mask: Valid entries, ``bool[B, H, K]``.
    """
    error = torch.where(mask, precise(predicted) - precise(target), 0.0)
    valid_steps = mask.sum(1)  # [B, K]
    channel_losses = error.square().sum(1) / valid_steps.clamp(min=1)  # [B, K]
    return channel_losses.sum(1) / (valid_steps > 0).sum(1).clamp(min=1)


@dataclass(frozen=True)
class Loss:
    """A loss as its sum and what it was summed over, so that micro-batches and processes add up to what one batch would give.

    Attributes:
        sum: ``float32`` scalar.
        count: How many terms it has: samples of an action loss, tokens of a language loss; ``float32`` scalar.
    """

    sum: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The sum by the count, 0 where there are no terms."""
        return self.sum / self.count.clamp(min=1)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.sum + other.sum, self.count + other.count)


def action_loss(each: Tensor, mask: Tensor) -> Loss:
    """The action loss of a batch: over the samples that have valid entries.

    Args:
        each: From :func:`sample_losses`, ``[B]``.
        mask: ``bool[B, H, K]``.
    """
    return Loss(each.sum(), mask.any(2).any(1).sum().float())


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


#: Weight of a centre's distance beside a word, and the distance in tokens beyond which a further one counts linearly.
CENTRE_WEIGHT = 2.0
BEND = 0.1


@dataclass(frozen=True)
class Marks:
    """The marks of a batch.

    Attributes:
        tokens: ``int64[W]``, the vision tower's token, among all of the batch, to which a word belongs; a name of two words has two
            entries.
        words: ``int64[W]``, ids.
        shares: ``float32[W]``, one over the words of the name.
        by_language: ``bool[W]``, whether the language model's state says the word, or the vision tower's.
        places: ``int64[O]``, the tower's tokens that have a mark, or a mark of no object.
        centres: ``float32[O, 2]``, how far the mark's centre is right of the image's and below it, in tokens.
        present: ``bool[O]``, whether there is an object.
    """

    tokens: Tensor
    words: Tensor
    shares: Tensor
    by_language: Tensor
    places: Tensor
    centres: Tensor
    present: Tensor


def marks_loss(embedded: Embedded, states: Tensor | None, head_weight: Tensor, marks: Marks) -> tuple[Tensor, Tensor]:
    """The sum of cross-entropies and weighted distances, and the number of names; two ``float32[]``.

    Args:
        embedded: The states of the vision tower.
        states: ``[B, S, D]``, last hidden states of the language model; ``None`` where it does not run, and no word is said by it.
        head_weight: ``[U, D]`` of the language-model head, whole until the backward pass, see :func:`language_loss`.
        marks: What is to be said.
    """
    seen = embedded.seen.float()
    speaking = functional.layer_norm(seen[marks.tokens], seen.shape[-1:])
    shares = marks.shares
    if states is not None:
        places = embedded.places[marks.tokens]  # -1 of tokens that the language model does not read, and so says nothing of
        thought = states.flatten(0, 1).index_select(0, places.clamp(min=0)).float()
        speaking = torch.where(marks.by_language.unsqueeze(-1), thought, speaking)
        shares = shares * ~(marks.by_language & (places < 0))
    logits = functional.linear(speaking.to(head_weight.dtype), head_weight)
    said = functional.cross_entropy(logits.float(), marks.words, reduction="none")
    apart = functional.smooth_l1_loss(seen[marks.places, :2], marks.centres, reduction="none", beta=BEND).sum(-1)
    total = (shares * said).sum() + CENTRE_WEIGHT * (apart * marks.present).sum()
    if embedded.objectness is not None:
        total = total + functional.binary_cross_entropy_with_logits(
            embedded.objectness[marks.places], marks.present.float(), reduction="sum"
        )
    return total, marks.shares.sum()
