"""What a prompt's states say of what its pictures show: a loss of ours beside the paper's two, for a backbone that begins at random.

A mark is a thing in a picture: a name, the role that the prompt gives it (what is to be moved, where it is to go), and its middle. Four
things are learned of it, and no weight is added for any of them. The first three by the picture's token that covers the middle:

* What the vision tower gives for the token says the thing's name: through the language model's own embedding, to which the tower's
  states are passed on among those of words. So the tower learns to see, for a quarter of what the whole backbone would cost.
* The language model's state of the token says the role where the thing has one, and else its name. So the model learns to find what the
  words of the prompt mean, which cloning alone does not teach in any time that two cores have.
* The first two numbers of both are where the middle is: right of and below the picture's middle, in tokens. A token covers more of the
  table than a gripper may be off, and what attends to a token does not learn its place otherwise.
* The language model's states of the prompt's last tokens, where an answer begins, hold the middles of what has a role: a token for
  each of :data:`ROLES`, two numbers for each picture. So few tokens say what an action needs to know, and an action expert that reads
  them (see :attr:`~.config.ExpertConfig.prompt_condition`) need not learn from demonstrations which token to attend to. One token for
  both roles had learned the object's middles alone after 2,600 steps of 32, where there are two pictures: four places to look at, for
  the four heads of ``small``.

Shapes: ``B`` samples, ``S`` tokens, ``D`` the backbone's width, ``W`` words that tokens of pictures say, ``O`` middles, ``U``
entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: Weights of a distance beside a word: by the picture's token, and by the prompt's last ones, where a prompt has four of them and some
#: twenty words; and the distance in tokens beyond which a further one counts linearly.
MIDDLE_WEIGHT = 2.0
END_WEIGHT = 8.0
BEND = 0.1

#: Roles whose middles the prompt's last tokens hold, from the last one backwards.
ROLES = ("object", "goal")


@dataclass(frozen=True)
class Words:
    """Words that tokens of pictures are to say; a name of two words is two of them.

    Attributes:
        places: ``int64[W]``, the token in ``[B * S]`` that says the word.
        words: ``int64[W]``, ids.
        shares: ``float32[W]``, one over the words of the name.
        by_language: ``bool[W]``, whether the language model's state says it, or what the vision tower gives.
    """

    places: Tensor
    words: Tensor
    shares: Tensor
    by_language: Tensor


@dataclass(frozen=True)
class Middles:
    """Middles of things that tokens are to hold.

    Attributes:
        places: ``int64[O]``, the token in ``[B * S]`` that holds it.
        numbers: ``int64[O]``, the first of the two numbers of its state that do.
        middles: ``float32[O, 2]``, how far the thing's middle is right of the picture's and below it, in tokens.
        weights: ``float32[O]``.
        by_language: ``bool[O]``, as of words.
    """

    places: Tensor
    numbers: Tensor
    middles: Tensor
    weights: Tensor
    by_language: Tensor


@dataclass(frozen=True)
class Marked:
    """What the marks of a batch teach."""

    words: Words
    middles: Middles


def end_of(role: str | None, picture: int, width: int) -> tuple[int, int] | None:
    """Where the end of a prompt holds a thing's middle.

    Args:
        role: What it is to the prompt.
        picture: Which of the prompt's pictures shows it, from 0.
        width: ``D``.

    Returns:
        How many tokens before the last one, and the first of the two numbers of that token's state; ``None`` where it has no such role,
        or a state has no number for so many pictures.
    """
    number = 2 * picture
    return (ROLES.index(role), number) if role in ROLES and number + 2 <= width else None


def marks_loss(embedded: Tensor, states: Tensor, head_weight: Tensor, marked: Marked) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the words and weighted distance of the middles, summed, and how many names there are; two ``float32[]``.

    Args:
        embedded: ``[B, S, D]``, what the language model reads; the vision tower's states are in the places of the pictures.
        states: ``[B, S, D]``, last hidden states of the language model.
        head_weight: ``[U, D]`` of the language-model head, whole until the backward pass, see :func:`~.language.language_loss`.
        marked: What is to be said.
    """
    words, middles = marked.words, marked.middles
    seen, thought = _states(embedded, states, words.places)
    speaking = torch.where(words.by_language.unsqueeze(-1), thought, functional.layer_norm(seen, seen.shape[-1:]))
    logits = functional.linear(speaking.to(head_weight.dtype), head_weight)
    said = functional.cross_entropy(logits.float(), words.words, reduction="none")
    seen, thought = _states(embedded, states, middles.places)
    held = torch.where(middles.by_language.unsqueeze(-1), thought, seen)
    found = held.gather(1, middles.numbers.unsqueeze(-1) + torch.arange(2, device=held.device))
    apart = functional.smooth_l1_loss(found, middles.middles, reduction="none", beta=BEND).sum(-1)
    return (words.shares * said).sum() + (middles.weights * apart).sum(), words.shares.sum()


def _states(embedded: Tensor, states: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Of some tokens what the language model reads and what it makes of it, ``float32[., D]`` each."""
    seen, thought = (each.flatten(0, 1).index_select(0, places).float() for each in (embedded, states))
    return seen, thought
