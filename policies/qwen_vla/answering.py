"""Answers in words: what the backbone's language-model head says next, greedily (paper, section 2.5: the loss that taught it).

The conversation goes through the backbone once; then each word is one step with transformers' cache of both kinds of layers.
Positions are ours, as everywhere: transformers' ``generate`` would compute them anew and keep an offset in the module
(``rope_deltas``), from which the next call would go wrong. One conversation at a time: no padding, so no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerFast

from ..api import PolicyError
from .backbone import embed
from .conversation import Conversation, Turn
from .inputs import InputBuilder
from .model import QwenVla
from .projections import computing
from .prompt import IM_END

#: Longest answer, in tokens. A box is about 25 with Qwen's tokenizer; captions of rendered scenes are up to 100.
MAX_TOKENS = 256


def answer(
    model: QwenVla,
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Turn],
    inputs: InputBuilder | None = None,
    max_tokens: int = MAX_TOKENS,
) -> str:
    """The answer to the last turn, which is the user's.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        turns: The conversation so far.
        inputs: The builder of its inputs; one with default limits where ``None``.
        max_tokens: The answer is cut there.

    Raises:
        PolicyError: The turns are no conversation that ends with the user's, or a picture of theirs is none.
    """
    if not turns or turns[-1].role != "user" or max_tokens < 1:
        said = turns[-1].role if turns else "no side"
        raise PolicyError(
            f"an answer of {max_tokens} tokens to a turn of {said} was requested; expected 1 or more, to the user's"
        )
    builder = inputs or InputBuilder(model.config, tokenizer)
    ids = answer_ids(model, tokenizer, turns, builder, max_tokens)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


@torch.no_grad()
def answer_ids(
    model: QwenVla, tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], builder: InputBuilder, max_tokens: int
) -> list[int]:
    """The ids of :func:`answer` without the control token at their end."""
    device = model.value_head.readout.weight.device
    end = tokenizer.get_vocab()[IM_END]
    unanswered = Conversation((*turns, Turn("assistant", (".",))))  # what is answered here is left out of the inputs
    inputs = builder.unanswered(unanswered, device)
    language, cache = model.backbone.model.language_model, DynamicCache(config=model.backbone.config.text_config)
    found: list[int] = []
    with computing(device, model.compute):
        embedded = embed(model.backbone, inputs, model.compute)
        positions = inputs.positions
        while len(found) < max_tokens:
            output = language(inputs_embeds=embedded, position_ids=positions, past_key_values=cache, use_cache=True)
            token = _likeliest(model.backbone, output.last_hidden_state[:, -1].to(model.compute))
            if int(token) == end:
                break
            found.append(int(token))
            embedded = language.get_input_embeddings()(token.view(1, 1)).to(model.compute).float()
            positions = positions[:, :, -1:] + 1  # text counts on by one in all three sections
    return found


def _likeliest(backbone: Any, state: Tensor) -> Tensor:
    """The id of the likeliest next token after one state, ``[1, D]``; computed as the language loss computes it."""
    weight = backbone.lm_head.weight
    return functional.linear(state.to(weight.dtype), weight).float().argmax()
