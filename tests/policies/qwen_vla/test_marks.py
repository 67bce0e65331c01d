"""Marks: an image's tokens learn to say what is there, its role and its centre, and which of them the language model is to read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vlarig.policies.qwen_vla.backbone import embed, hidden_states
from vlarig.policies.qwen_vla.config import ModelConfig
from vlarig.policies.qwen_vla.conversation import NOTHING, Conversation, Mark, Still, Turn
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import Batch, QwenVla, build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer, token_ids

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30)}
SIDE = 64  # of an image: 2 x 2 tokens

TOKENIZER = small_tokenizer()
TINY = PRESETS["tiny"](tokens=token_ids(TOKENIZER))
VARIANTS = {"all tokens": TINY, "kept tokens": dataclasses.replace(TINY, kept_tokens=2, stem="conv")}


def shown(named: str, places: dict[str, tuple[int, int]]) -> Conversation:
    """An image of squares at places, and a prompt that names one of them."""
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    marks = []
    for colour, (x, y) in places.items():
        image[y - 5 : y + 5, x - 5 : x + 5] = COLOURS[colour]
        marks.append(Mark(f"{colour} cube", x / SIDE, y / SIDE, "object" if colour == named else None))
    tokens = {(int(mark.x * 2), int(mark.y * 2)) for mark in marks}
    marks += [Mark(NOTHING, x / 2, y / 2) for x in (0, 1) for y in (0, 1) if (x, y) not in tokens]
    still = Still(image, marks=tuple(marks))
    return Conversation((Turn("user", (f"the {named} cube", still)), Turn("assistant", ("yes",))))


#: Two images, each with a prompt for one of its squares and one for the other.
ASKED = [
    shown(named, places)
    for places in ({"red": (10, 12), "blue": (44, 38)}, {"blue": (20, 22), "red": (56, 10)})
    for named in places
]


def learned(config: ModelConfig, steps: int) -> QwenVla:
    model = build(config).train()
    inputs = InputBuilder(config, TOKENIZER).build(ASKED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for _ in range(steps):
        losses = model(Batch(inputs))
        (losses.marks.sum / losses.marks.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_learn_the_names_the_role_and_the_middle(name: str) -> None:
    """The role changes with the prompt, while the image and all names in it stay."""
    config = VARIANTS[name]
    model, inputs = learned(config, 240), InputBuilder(config, TOKENIZER).build(ASKED)
    marks, head = inputs.marks, model.backbone.lm_head.weight
    assert marks is not None
    with torch.no_grad():
        embedded = embed(model.backbone, inputs, kept_tokens=config.kept_tokens)
        states = hidden_states(model.backbone, inputs, embedded)
    places = embedded.places[marks.tokens]
    asked = marks.by_language & (places >= 0)
    thought = (states.flatten(0, 1)[places[asked]] @ head.T).argmax(-1)
    object_word = InputBuilder(config, TOKENIZER)._encode(" object")[0]
    assert torch.equal(thought == object_word, marks.words[asked] == object_word)
    off = (embedded.seen[marks.places, :2] - marks.centres)[marks.present].abs().mean()
    assert off < 0.05  # of a token; 0.16 where it always says the token's own centre
    if config.kept_tokens:
        assert embedded.objectness is not None
        assert torch.equal(embedded.objectness[marks.places] > 0, marks.present)
        kept = torch.zeros(len(embedded.places), dtype=torch.bool).index_fill(0, marks.places[marks.present], True)
        assert torch.equal(embedded.places >= 0, kept)  # two squares in each image
        rows_and_columns = embedded.positions[1:].flatten(1)[:, embedded.places[kept]].T
        starts = inputs.positions[1:].flatten(1)[:, embedded.places[kept]].T
        cells = torch.arange(len(kept))[kept] % 4
        assert torch.equal(rows_and_columns - starts, torch.stack([cells // 2, cells % 2], 1))


def test_what_the_language_model_says_teaches_its_layers_and_what_the_tower_says_does_not() -> None:
    config = VARIANTS["kept tokens"]
    model = build(config).train()
    for by_language in (False, True):
        inputs = InputBuilder(config, TOKENIZER).build(ASKED[:1], by_language=by_language)
        losses = model(Batch(inputs))
        losses.marks.sum.backward()
        layers = [each.grad for each in model.part("language").layers.parameters()]  # type: ignore[union-attr]
        assert any(each is not None and bool(each.any()) for each in layers) == by_language
        assert all(each.grad is not None for each in model.part("vision").parameters())
        assert float(losses.marks.count) == pytest.approx(4 * (1 + by_language))  # two squares and two places of nothing
        model.zero_grad()


def test_without_marks_there_is_no_loss() -> None:
    plain = Conversation((Turn("user", ("why?", Still(np.zeros((SIDE, SIDE, 3), np.uint8)))), Turn("assistant", ("yes",))))
    losses = build(TINY)(Batch(InputBuilder(TINY, TOKENIZER).build([plain])))
    assert (float(losses.marks.sum), float(losses.marks.count), float(losses.language.count)) == (0, 0, 2)
