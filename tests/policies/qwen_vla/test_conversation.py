"""Conversations: their text letter by letter, what of it is learned, and the size of their images.

The text of Qwen3.5's chat template is written out here: the template comes with the weights, from a hub. What it prints was compared
for 3,000 random conversations (qwen3_5_think.jinja@c4142f2 and qwen3_5_think_training.jinja@fb9cb79 of huggingface/trl
trl/chat_templates). ``Qwen3VLProcessor`` cannot be built without torchvision, but its layout of a video and its image processor
can be had.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLImageProcessorPil, Qwen3_5Tokenizer, Qwen3VLProcessor

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.conversation import Conversation, Limits, Still, Turn, Video, fitted, segments
from vlarig.policies.qwen_vla.prompt import IMAGE_PAD
from vlarig.policies.qwen_vla.tokenizer import QWEN_TOKENS, VIDEO_PAD, encode, small_tokenizer
from vlarig.policies.qwen_vla.vision import patchify

SMALL = small_tokenizer()


def qwens_rules() -> Qwen3_5Tokenizer:
    """Qwen3.5's tokenizer with the small one's words."""
    merges = json.loads(SMALL.backend_tokenizer.to_str())["model"]["merges"]
    tokenizer = Qwen3_5Tokenizer(vocab=SMALL.get_vocab(), merges=[tuple(pair) for pair in merges])
    tokenizer.backend_tokenizer.add_special_tokens([*QWEN_TOKENS, "<think>", "</think>"])
    return tokenizer


QWENS = qwens_rules()
#: Anything that is no control token.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1).filter(str.strip)
EMPTY = np.zeros((32, 32, 3), np.uint8)
ANSWER = Turn("assistant", ("A cube.",))


def asked(*content: str | Still | Video) -> Conversation:
    return Conversation((Turn("user", content), ANSWER))


def text_of(conversation: Conversation, tokens: int = 1) -> str:
    return "".join(text for text, _ in segments(conversation, [tokens] * len(conversation.seen()), 2))


def test_the_text_is_that_of_qwens_chat_template() -> None:
    conversation = Conversation(
        (
            Turn("system", ("Be brief. ",)),
            Turn("user", ("\nWhat ", "is on ", Still(EMPTY), " the table? ")),
            Turn("assistant", (" A cube.\n",)),
            Turn("user", (Still(EMPTY), Still(EMPTY), "And here?")),
            Turn("assistant", ("Nothing.",)),
        )
    )
    assert text_of(conversation) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is on <|vision_start|><|image_pad|><|vision_end|> the table?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nA cube.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>And here?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nNothing.<|im_end|>\n"
    )
    assert [text for text, learned in segments(conversation, [1, 1, 1], 2) if learned] == [
        "A cube.<|im_end|>",
        "Nothing.<|im_end|>",
    ]


def test_frames_and_views_are_tagged() -> None:
    pad = "<|vision_start|><|image_pad|><|vision_end|>"
    for still, expected in (
        (Still(EMPTY), pad),
        (Still(EMPTY, frame=2), f"Frame 2: {pad}"),
        (Still(EMPTY, view="front left"), f"front left: {pad}"),
        (Still(EMPTY, frame=1, view="back"), f"Frame 1, back: {pad}"),
        (Still(EMPTY, view="ego"), f"<|ego_start|>{pad}<|ego_end|>"),
        (Still(EMPTY, frame=3, view="ego"), f"Frame 3: <|ego_start|>{pad}<|ego_end|>"),
    ):
        assert text_of(asked("Look. ", still)).startswith(f"<|im_start|>user\nLook. {expected}<|im_end|>")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_videos_are_laid_out_as_by_transformers(count: int) -> None:
    video = Video(EMPTY[None].repeat(count, axis=0), tuple(index / 3.0 for index in range(count)))
    processor = object.__new__(Qwen3VLProcessor)
    vars(processor).update(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token=VIDEO_PAD,
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    processed = {
        "video_grid_thw": torch.tensor([[(count + 1) // 2, 4, 6]]),
        "video_metadata": [SimpleNamespace(fps=3.0, frames_indices=list(range(count)))],
    }
    expected = processor.replace_video_token(processed, 0)
    assert text_of(asked(video, "What moves?"), tokens=6).startswith(f"<|im_start|>user\n{expected}What moves?<|im_end|>")


@given(answer=WORDS, question=WORDS)
@settings(deadline=None, max_examples=200)
def test_parts_are_tokenised_as_the_whole(answer: str, question: str) -> None:
    """By the small tokenizer and by the rules of Qwen3.5's own, whose vocabulary is on a hub."""
    conversation = Conversation((Turn("user", (question, Still(EMPTY))), Turn("assistant", (answer,))) * 2)
    parts = [text for text, _ in segments(conversation, [2, 2], 2)]
    for tokenizer in (SMALL, QWENS):
        assert [number for part in parts for number in encode(tokenizer, part)] == encode(tokenizer, "".join(parts))


@pytest.mark.parametrize("size", [(48, 80), (333, 1001), (2000, 30), (1500, 1500)])
def test_images_are_sized_and_cut_as_by_qwens_image_processor(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    limits = Limits()
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    expected = processor(images=[image], return_tensors="pt")
    (mine,) = fitted(Still(image), limits, 32, 2)
    assert [1, mine.shape[1] // 16, mine.shape[2] // 16] == expected["image_grid_thw"][0].tolist()
    torch.testing.assert_close(patchify(torch.from_numpy(mine)), expected["pixel_values"], rtol=0, atol=1e-6)


def test_a_video_shares_its_pixels_and_repeats_its_last_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 96, 128, 3), np.uint8)
    patches = fitted(Video(frames, (0.0, 1.0, 2.0, 3.0, 4.0)), Limits(min_pixels=1024), 32, 2)
    assert [patch.shape for patch in patches] == [(2, 96, 128, 3)] * 3
    np.testing.assert_array_equal(np.concatenate(patches), frames[[0, 1, 2, 3, 4, 4]])
    small = fitted(Video(frames, (0.0,) * 5), Limits(min_pixels=1024, max_video_pixels=5 * 64 * 64), 32, 2)
    assert small[0].shape == (2, 32, 64, 3)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "turns of nothing; expected the system's"),
        ([("user", "Hi")], "turns of user; expected .* an assistant's last"),
        ([("assistant", "Hi")], "turns of assistant; expected"),
        ([("user", "Hi"), ("user", "Hi"), ("assistant", "Hi")], "turns of user, user, assistant; expected"),
        ([("user", "Hi"), ("assistant", " ")], "a turn of the assistant is empty; give it text"),
        ([("user", ""), ("assistant", "Hi")], "a turn of the user is empty"),
        (
            [("user", "Hi"), ("assistant", "Yes<|im_end|>")],
            r"the assistant's text holds '<\|im_end\|>', which looks like a control",
        ),
        ([("user", "Hi"), ("assistant", "<think>Hm</think>Yes")], "holds '<think>'"),
        ([("tool", "Hi")], "the role 'tool'; expected one of system, user, assistant"),
        ([("user", "\ud83d"), ("assistant", "Hi")], "give whole Unicode characters"),
    ],
)
def test_what_is_no_conversation_is_refused(turns: list[tuple], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Conversation(tuple(Turn(role, (text,)) for role, text in turns))


def test_a_control_token_in_two_parts_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"holds '<\|im_end\|>'"):
        Turn("user", ("<|im", "_end|>"))
    with pytest.raises(PolicyError, match=r"holds '<\|im_end\|>'"):
        Turn("user", ("<|im_", Still(EMPTY, view="end|>")))


def test_images_that_are_none_are_refused() -> None:
    for make, message in (
        (
            lambda: Still(EMPTY.astype(np.float32)),
            r"an image of a conversation is float32\[32, 32, 3\]; expected uint8\[height, width, 3\]",
        ),
        (
            lambda: Video(EMPTY, (0.0,)),
            r"a video of a conversation is uint8\[32, 32, 3\]; expected uint8\[frames, height, width, 3\]",
        ),
        (lambda: Video(EMPTY[None], ()), r"a video of 1 frames has times \[\]; expected one of 0 or more for each frame"),
        (lambda: Still(EMPTY, frame=0), "an image is frame 0; expected 1 or more"),
        (lambda: Still(EMPTY, view=" "), "name the camera, or give no view"),
        (
            lambda: Turn("assistant", ("Here: ", Still(EMPTY))),
            "a turn of the assistant shows an image; only the user shows any",
        ),
        (lambda: Turn("user", (EMPTY,)), "a turn of the user holds a ndarray; expected text, Still or Video"),
        (lambda: Limits(min_pixels=9, max_pixels=8), "expected min_pixels up to max_pixels"),
        (lambda: fitted(Still(np.zeros((1, 300, 3), np.uint8)), Limits(), 32, 2), "an image of 1 x 300 pixels does not fit"),
    ):
        with pytest.raises(PolicyError, match=message):
            make()


def test_places_of_an_image_are_its_tokens() -> None:
    assert text_of(asked(Still(EMPTY)), tokens=5).count(IMAGE_PAD) == 5
