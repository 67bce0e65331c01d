"""Answers in words: what the backbone's language-model head says next, greedily (paper, section 2.5: the loss that taught it).

The conversation goes through the backbone once; then each word is one step with transformers' cache of both kinds of layers.
Positions are ours, as everywhere: transformers' ``generate`` would compute them anew and keep an offset in the module
(``rope_deltas``), from which the next call would go wrong. A batch is of conversations of one length: no padding, so no mask.

Shapes: ``B`` conversations of a batch, ``D`` the backbone's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerFast

from ..api import PolicyError
from .backbone import BackboneInputs, embed
from .conversation import Conversation, Turn
from .inputs import InputBuilder
from .model import QwenVla
from .prompt import IM_END
from .tensors import computing

#: Longest answer, in tokens. A box is about 25 with Qwen's tokenizer; captions of rendered scenes are up to 100.
MAX_TOKENS = 256


def answers(
    model: QwenVla,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Turn]],
    inputs: InputBuilder | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[str]:
    """The answers to the last turns of several conversations, which are the user's.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        conversations: The turns of each so far. Those that are equally long in tokens are answered at once.
        inputs: The builder of its inputs; one with default limits where ``None``.
        max_tokens: An answer is cut there.
    """
    for turns in conversations:
        if not turns or turns[-1].role != "user" or max_tokens < 1:
            said = turns[-1].role if turns else "no side"
            raise PolicyError(
                f"an answer of {max_tokens} tokens to a turn of {said} was requested; expected 1 or more, to the user's"
            )
    builder = inputs or InputBuilder(model.config, tokenizer)
    found = answer_ids(model, tokenizer, conversations, builder, max_tokens)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]


@torch.no_grad()
def answer_ids(
    model: QwenVla,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Turn]],
    builder: InputBuilder,
    max_tokens: int,
) -> list[list[int]]:
    """The ids of :func:`answers` without the control token at their end."""
    device = model.value_head.readout.weight.device
    end = tokenizer.get_vocab()[IM_END]
    # What is answered here is left out of the inputs.
    unanswered = [Conversation((*turns, Turn("assistant", (".",)))) for turns in conversations]
    found: list[list[int]] = [[] for _ in conversations]
    for indices, inputs in builder.unanswered(unanswered, device):
        for index, ids in zip(indices, _continued(model, inputs, end, max_tokens), strict=True):
            found[index] = ids
    return found


def _continued(model: QwenVla, inputs: BackboneInputs, end: int, max_tokens: int) -> list[list[int]]:
    """The likeliest tokens after each sequence of a batch without padding, up to the token ``end``."""
    device, weight = inputs.input_ids.device, model.backbone.lm_head.weight
    language, cache = model.backbone.model.language_model, DynamicCache(config=model.backbone.config.text_config)
    found: list[Tensor] = []
    ended = torch.zeros(len(inputs.input_ids), dtype=torch.bool, device=device)
    with computing(device, model.compute):
        read = embed(model.backbone, inputs, model.compute, kept_tokens=model.config.kept_tokens)
        embedded, positions = read.states, read.positions
        while len(found) < max_tokens:
            output = language(inputs_embeds=embedded, position_ids=positions, past_key_values=cache, use_cache=True)
            states = output.last_hidden_state[:, -1].to(model.compute).to(weight.dtype)  # [B, D]
            tokens = functional.linear(states, weight).float().argmax(dim=-1)  # int64[B], as the language loss computes them
            ended |= tokens == end
            if ended.all():
                break
            found.append(tokens)
            embedded = language.get_input_embeddings()(tokens[:, None]).to(model.compute).float()
            positions = positions[:, :, -1:] + 1  # text counts on by one in all three sections
    if not found:
        return [[] for _ in ended]
    rows: list[list[int]] = torch.stack(found, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
