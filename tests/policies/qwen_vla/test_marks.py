"""Marks: tokens of pictures learn to name what is there, its role and its middle; the prompt's last token where its things are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.conversation import NOTHING, Conversation, Mark, Picture, Turn
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted
from vlarig.policies.qwen_vla.marks import Marked, Middles, Words, end_of, marks_loss
from vlarig.policies.qwen_vla.model import Batch, QwenVla, build
from vlarig.policies.qwen_vla.tokenizer import small_tokenizer, token_ids

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30)}
SIDE = 64  # of a picture: 2 x 2 tokens


def shown(named: str, places: dict[str, tuple[int, int]]) -> Conversation:
    """A picture of squares at places, and a prompt that names one of them."""
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    marks = []
    for colour, (x, y) in places.items():
        image[y - 5 : y + 5, x - 5 : x + 5] = COLOURS[colour]
        marks.append(Mark(f"{colour} cube", x / SIDE, y / SIDE, "object" if colour == named else None))
    tokens = {(int(mark.x * 2), int(mark.y * 2)) for mark in marks}
    marks += [Mark(NOTHING, x / 2, y / 2) for x in (0, 1) for y in (0, 1) if (x, y) not in tokens]
    picture = Picture(image, marks=tuple(marks))
    return Conversation((Turn("user", (f"the {named} cube", picture)), Turn("assistant", ("yes",))))


#: Two pictures, each with a prompt for one of its squares and one for the other.
ASKED = [
    shown(named, places)
    for places in ({"red": (10, 12), "blue": (44, 38)}, {"blue": (20, 22), "red": (56, 10)})
    for named in places
]


@pytest.fixture(scope="module")
def builder() -> InputBuilder:
    tokenizer = small_tokenizer()
    return InputBuilder(PRESETS["tiny"](tokens=token_ids(tokenizer)), tokenizer)


def model_of(tokens_of: InputBuilder) -> QwenVla:
    return build(tokens_of._config).train()


def test_tokens_learn_the_names_the_role_and_the_middle(builder: InputBuilder) -> None:
    """The role changes with the prompt, while the picture and all names in it stay."""
    model, inputs = model_of(builder), builder.build(ASKED)
    marked, head = inputs.marked, model.backbone.lm_head.weight
    assert marked is not None
    words, middles = marked.words, marked.middles
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for _ in range(240):
        losses = model(Batch(inputs))
        (losses.marks.sum / losses.marks.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        embedded, context = model._read(inputs)
        thought = (context.states.flatten(0, 1)[words.places] @ head.T).argmax(-1)
    object_word = builder._encode(" object")[0]
    assert torch.equal((thought == object_word)[words.by_language], (words.words == object_word)[words.by_language])
    for by_language, states in ((False, embedded), (True, context.states)):
        of = middles.by_language == by_language
        held = states.flatten(0, 1)[middles.places[of]][:, :2]
        assert bool((middles.numbers[of] == 0).all())  # one picture, and no goal
        off = (held - middles.middles[of]).abs().mean()
        assert off < 0.05, by_language  # of a token; 0.16 where it always says the token's own middle


def test_the_last_token_of_a_prompt_to_act_says_where_what_it_names_is(builder: InputBuilder) -> None:
    """What conversations teach holds for a prompt that is to be answered by actions: the same tokens, up to the same last one."""
    conversation = ASKED[0]
    text, picture = conversation.turns[0].content
    assert isinstance(text, str) and isinstance(picture, Picture)
    shows = Conversation((Turn("user", (text, Picture(picture.image, view="ego", marks=picture.marks))), conversation.turns[1]))
    taught, acts = builder.build([shows]), builder.build([Prompted(text, (("ego", picture.image),))])
    assert taught.marked is not None
    middles = taught.marked.middles
    ends = middles.places[middles.weights == middles.weights.max()]
    length = int(acts.valid.sum())
    assert ends.tolist() == [length - 1]
    assert torch.equal(taught.input_ids[0, :length], acts.input_ids[0])


def test_each_picture_and_role_has_its_own_numbers_as_far_as_a_state_has_any() -> None:
    places = [end_of(role, picture, width=5) for picture in (0, 1, 2) for role in ("object", "goal")]
    assert places == [(0, 0), (1, 0), (0, 2), (1, 2), None, None]
    assert [end_of(role, 0, width=10) for role in (None, "tool")] == [None, None]


def test_what_the_vision_tower_says_is_taught_to_it_alone(builder: InputBuilder) -> None:
    model, inputs = model_of(builder), builder.build(ASKED[:1])
    assert inputs.marked is not None
    embedded, context = model._read(inputs)
    head = model.backbone.lm_head.weight
    for by_language in (False, True):
        words, middles = (
            kind(**{name: column[part.by_language == by_language] for name, column in vars(part).items()})
            for kind, part in ((Words, inputs.marked.words), (Middles, inputs.marked.middles))
        )
        total, count = marks_loss(embedded, context.states, head, Marked(words, middles))
        assert float(count) == pytest.approx(4)  # two squares and two places of nothing
        total.backward(retain_graph=True)
        layers = [each.grad for each in model.part("language").layers.parameters()]  # type: ignore[union-attr]
        assert any(each is not None and bool(each.any()) for each in layers) == by_language
        assert all(each.grad is not None for each in model.part("vision").parameters())
        model.zero_grad()


def test_without_marks_there_is_no_loss(builder: InputBuilder) -> None:
    plain = Conversation((Turn("user", ("why?", Picture(np.zeros((SIDE, SIDE, 3), np.uint8)))), Turn("assistant", ("yes",))))
    losses = model_of(builder)(Batch(builder.build([plain])))
    assert (float(losses.marks.sum), float(losses.marks.count), float(losses.language.count)) == (0, 0, 2)
