"""Answers in words: what teacher forcing finds likeliest at each place, and what transformers' own generation says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.answering import answer_ids, answers
from vlarig.policies.qwen_vla.backbone import hidden_states
from vlarig.policies.qwen_vla.conversation import Conversation, Limits, Still, Turn, Video
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import Batch, build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.prompt import IM_END
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer

CONFIG = PRESETS["tiny"]()
TOKENIZER = small_tokenizer()
BUILDER = InputBuilder(CONFIG, TOKENIZER, Limits(min_pixels=4096, max_pixels=16384))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
LENGTH = 12
END = TOKENIZER.get_vocab()[IM_END]

QUESTIONS = {
    "words": (Turn("user", ("Sure?",)),),
    "an image": (Turn("user", (Still(PIXELS[0], view="ego"), "Where is the red cube?")),),
    "a video and a turn before": (
        Turn("user", (Video(PIXELS, (0.0, 0.5, 1.0)), "What moves?")),
        Turn("assistant", ("Nothing",)),
        Turn("user", (Still(PIXELS[1]), "And here?")),
    ),
}


@pytest.fixture(scope="module")
def model():
    """Weights larger than usual, so that the likeliest token changes from place to place."""
    made = build(CONFIG, seed=3)
    with torch.no_grad():
        for parameter in made.backbone.model.language_model.layers.parameters():
            parameter.mul_(10.0)
    return made


@pytest.fixture(params=QUESTIONS)
def turns(request):
    return QUESTIONS[request.param]


def test_each_token_is_the_likeliest_after_those_before_it(model, turns):
    [found] = answer_ids(model, TOKENIZER, [turns], BUILDER, LENGTH)
    assert len(set(found)) > 2
    said = "".join(TOKENIZER.decode([each]) for each in found)
    [(_, inputs)] = BUILDER.unanswered([Conversation((*turns, Turn("assistant", (".",))))])
    for count, token in enumerate(found):
        grown = continued(inputs, found[:count])
        state = hidden_states(model.backbone, grown)[0, -1]
        logits = model.backbone.lm_head(state)
        assert int(logits.argmax()) == token, (count, said)


def continued(inputs, ids):
    """The inputs with further tokens, as a batch would have them."""
    more = torch.tensor([ids], dtype=torch.int64).reshape(1, -1)
    counted = inputs.positions[:, :, -1:] + torch.arange(1, len(ids) + 1)
    return replace(
        inputs,
        input_ids=torch.cat([inputs.input_ids, more], 1),
        valid=torch.ones(1, inputs.input_ids.shape[1] + len(ids), dtype=torch.bool),
        positions=torch.cat([inputs.positions, counted], 2),
    )


@pytest.mark.parametrize("name", ["words", "an image"])
def test_the_words_are_those_of_transformers_own_generation(model, name):
    turns = QUESTIONS[name]
    [(_, inputs)] = BUILDER.unanswered([Conversation((*turns, Turn("assistant", (".",))))])
    kinds = torch.zeros_like(inputs.input_ids)
    kinds[inputs.input_ids == CONFIG.backbone["image_token_id"]] = 1
    grids = inputs.image_grid_thw
    seen = {} if grids is None else {"pixel_values": inputs.pixel_values, "image_grid_thw": grids, "mm_token_type_ids": kinds}
    model.backbone.model.rope_deltas = None
    expected = model.backbone.generate(
        inputs.input_ids, attention_mask=torch.ones_like(inputs.input_ids), do_sample=False, max_new_tokens=LENGTH,
        eos_token_id=END, pad_token_id=0, **seen,
    )[0, inputs.input_ids.shape[1] :].tolist()  # fmt: skip
    model.backbone.model.rope_deltas = None
    assert answer_ids(model, TOKENIZER, [turns], BUILDER, LENGTH) == [[each for each in expected if each != END]]


def test_an_answer_ends_at_its_control_token(model):
    asked = QUESTIONS["words"]
    head = model.backbone.lm_head.weight
    before = head[END].clone()
    try:
        with torch.no_grad():
            [(_, inputs)] = BUILDER.unanswered([Conversation((*asked, Turn("assistant", (".",))))])
            head[END] = 100 * hidden_states(model.backbone, inputs)[0, -1]
        assert answers(model, TOKENIZER, [asked], BUILDER) == [""]
    finally:
        with torch.no_grad():
            head[END] = before


def test_conversations_answered_together_get_their_own_answers():
    """Of a model that learned them; three are of one length, and their answers end one after the other."""
    made = build(CONFIG, seed=3)
    expected = {"1": "5", "2": "6 6", "3": "7 7 7", "4 and 4": "8"}
    asked = [(Turn("user", (text,)),) for text in expected]
    taught = [Conversation((*turns, Turn("assistant", (said,)))) for turns, said in zip(asked, expected.values(), strict=True)]
    batch = Batch(BUILDER.build(taught))
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        made(batch).language.sum.backward()
        optimizer.step()
    assert answers(made, TOKENIZER, asked, BUILDER) == list(expected.values())


def test_an_answer_to_an_answer_is_refused(model):
    with pytest.raises(PolicyError, match="a turn of assistant was requested; expected 1 or more, to the user's"):
        answers(model, TOKENIZER, [(*QUESTIONS["words"], Turn("assistant", ("Yes",)))], BUILDER)
