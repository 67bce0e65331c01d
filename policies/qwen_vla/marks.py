"""What tokens of pictures say of what they show: a loss of ours beside the paper's two, for a backbone that begins at random.

A mark is a thing in a picture: a name, the role that the prompt gives it (what is to be moved, where it is to go), and its middle. The
picture's token that covers the middle learns three things, and no weight is added for any of them:

* What the vision tower gives for the token says the thing's name: through the language model's own embedding, to which the tower's
  states are passed on among those of words. So the tower learns to see, for a quarter of what the whole backbone would cost.
* The language model's state of the token says the role where the thing has one, and else its name. So the model learns to find what the
  words of the prompt mean, which cloning alone does not teach in any time that two cores have.
* The first two numbers of both are where the middle is: right of and below the picture's middle, in tokens. A token covers more of the
  table than a gripper may be off, and what attends to a token does not learn its place otherwise.

Shapes: ``B`` samples, ``S`` tokens, ``D`` the backbone's width, ``W`` words that tokens of pictures say, ``U``
entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: Weight of a distance beside a word, and the distance in tokens beyond which a further one counts linearly.
MIDDLE_WEIGHT = 2.0
BEND = 0.1


@dataclass(frozen=True)
class Marked:
    """The words that marks of a batch teach; a name of two words is two of them.

    Attributes:
        places: ``int64[W]``, the token in ``[B * S]`` that says the word.
        words: ``int64[W]``, ids.
        shares: ``float32[W]``, one over the words of the name.
        middles: ``float32[W, 2]``, how far the thing's middle is right of the picture's and below it, in tokens; NaN where none is
            learned.
        by_language: ``bool[W]``, whether the language model's state says it, or what the vision tower gives.
    """

    places: Tensor
    words: Tensor
    shares: Tensor
    middles: Tensor
    by_language: Tensor


def marks_loss(embedded: Tensor, states: Tensor, head_weight: Tensor, marked: Marked) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the words and distance of the middles, summed, and how many marks they are; two ``float32[]``.

    Args:
        embedded: ``[B, S, D]``, what the language model reads; the vision tower's states are in the places of the pictures.
        states: ``[B, S, D]``, last hidden states of the language model.
        head_weight: ``[U, D]`` of the language-model head, whole until the backward pass, see :func:`~.language.language_loss`.
        marked: What is to be said.
    """
    seen, thought = (each.flatten(0, 1).index_select(0, marked.places).float() for each in (embedded, states))
    language = marked.by_language.unsqueeze(-1)
    speaking = torch.where(language, thought, functional.layer_norm(seen, seen.shape[-1:]))
    logits = functional.linear(speaking.to(head_weight.dtype), head_weight)
    words = functional.cross_entropy(logits.float(), marked.words, reduction="none")
    found = torch.where(language, thought, seen)[:, :2]
    known = ~marked.middles.isnan()
    apart = functional.smooth_l1_loss(found, marked.middles.nan_to_num(), reduction="none", beta=BEND) * known
    return (marked.shares * (words + MIDDLE_WEIGHT * apart.sum(-1))).sum(), marked.shares.sum()
