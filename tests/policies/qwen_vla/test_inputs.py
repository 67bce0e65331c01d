"""Batches for the backbone: the order of their tokens, and that samples do not mix."""

from __future__ import annotations

from dataclasses import fields, replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from vlarig.envs.api import Observation
from vlarig.envs.robotwin.robot import ROBOTWIN_ALOHA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.envs.vlnce.robot import VLNCE_RXR
from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import embodiment_named, fit_image
from vlarig.policies.qwen_vla.conversation import Conversation, Limits, Still, Turn, Video, fitted
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted, prompted
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.prompt import IMAGE_PAD, chat_text, embodiment_prompt
from vlarig.policies.qwen_vla.tokenizer import encode, small_tokenizer, token_ids
from vlarig.policies.qwen_vla.vision import patchify

SMALL = small_tokenizer()
TOKENS = token_ids(SMALL)
CONFIG = PRESETS["tiny"]()
BUILDER = InputBuilder(CONFIG, SMALL)
HEIGHT, WIDTH = CONFIG.image_size


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def observation(instruction: str, **views: np.ndarray) -> Observation:
    return Observation(images=views, state=np.zeros(8, np.float32), instruction=instruction)


#: Samples that differ in all that samples may differ in: robot, views, frames of a view, sizes of images.
SAMPLES = [
    prompted(
        observation("put the red cube in the white tray", cam_left_wrist=noise(1)[None], ego=noise(0, 48, 80)[None]),
        TABLETOP_PANDA,
        16,
    ),
    Prompted(embodiment_prompt(WIDOWX_BRIDGE, "wave", 16)),
    prompted(
        observation(
            "leave the room, turn left and stop", ego=np.stack([noise(2, 90, 120), noise(3, 90, 120), noise(4, 90, 120)])
        ),
        VLNCE_RXR,
        8,
    ),
]


def text_of(sample: Prompted) -> str:
    """The whole sequence of a sample in words."""
    return chat_text(sample.text, [(tag, CONFIG.image_tokens()) for tag, _ in sample.views])


def test_a_sequence_is_the_text_with_the_images_in_it() -> None:
    for sample in SAMPLES:
        tags = [tag for tag, _ in sample.views]
        whole = text_of(sample)
        assert BUILDER.ids(sample.text, tags) == encode(SMALL, whole)
        assert whole.count(IMAGE_PAD) == CONFIG.image_tokens() * len(tags)


def test_views_follow_the_embodiments_order_and_histories_run_forward() -> None:
    assert [tag for tag, _ in SAMPLES[0].views] == ["ego", "cam_left_wrist"]
    assert [tag for tag, _ in SAMPLES[2].views] == ["ego"] * 3
    np.testing.assert_array_equal(SAMPLES[2].views[0][1], noise(2, 90, 120))


def test_a_batch_is_padded_on_the_right_and_its_images_stand_in_order() -> None:
    batch = BUILDER.build(SAMPLES)
    lengths = batch.valid.sum(dim=1).tolist()
    assert lengths == [len(encode(SMALL, text_of(sample))) for sample in SAMPLES]
    assert batch.input_ids.shape == batch.valid.shape == (3, max(lengths)) == batch.positions.shape[1:]
    for step, length in enumerate(lengths):
        assert batch.valid[step, :length].all()
        assert (batch.input_ids[step, length:] == TOKENS.pad).all()
    assert batch.image_grid_thw is not None
    assert batch.pixel_values is not None
    assert batch.image_grid_thw.tolist() == [[1, HEIGHT // 16, WIDTH // 16]] * 5
    images = [fit_image(image, HEIGHT, WIDTH, CONFIG.image_fit) for sample in SAMPLES for _, image in sample.views]
    torch.testing.assert_close(batch.pixel_values, patchify(torch.from_numpy(np.stack(images))), rtol=0, atol=0)


def test_a_sample_alone_is_the_same_as_in_a_batch() -> None:
    batch = BUILDER.build(SAMPLES)
    patches = 0
    for step, sample in enumerate(SAMPLES):
        alone = BUILDER.build([sample])
        length = alone.input_ids.shape[1]
        assert torch.equal(alone.input_ids[0], batch.input_ids[step, :length])
        assert torch.equal(alone.positions[:, 0], batch.positions[:, step, :length])
        if not sample.views:
            assert alone.pixel_values is None
            assert alone.image_grid_thw is None
            continue
        assert alone.pixel_values is not None
        assert batch.pixel_values is not None
        assert torch.equal(alone.pixel_values, batch.pixel_values[patches : patches + len(alone.pixel_values)])
        patches += len(alone.pixel_values)


def test_a_builder_that_went_to_another_process_makes_the_same_batches() -> None:
    MIXING.build(MIXED)  # it keeps prompts by now
    again, batch = ForkingPickler.loads(ForkingPickler.dumps(MIXING)).build(MIXED), MIXING.build(MIXED)
    for field in fields(batch):
        found, expected = getattr(again, field.name), getattr(batch, field.name)
        assert found is expected is None or torch.equal(found, expected), field.name


def test_a_robot_without_cameras_and_a_task_family_are_in_the_text() -> None:
    sample = prompted(observation("wave"), embodiment_named("ur10e"), 16, task_family="manipulation")
    assert "50 Hz. The task family is manipulation. Please" in sample.text
    assert sample.views == ()


#: Conversations with images of other sizes than a policy's.
CONVERSATIONS = [
    Conversation((Turn("user", (Still(noise(7, 40, 100)), "What is it?")), Turn("assistant", ("A red cube.",)))),
    Conversation(
        (
            Turn("user", (Video(np.stack([noise(8, 70, 70)] * 3), (0.0, 1.0, 2.0)), "What moves?")),
            Turn("assistant", ("Nothing.",)),
            Turn("user", (Still(noise(9, 90, 40), frame=1), "And now?")),
            Turn("assistant", ("The cube.",)),
        )
    ),
]
MIXED = [CONVERSATIONS[0], SAMPLES[0], CONVERSATIONS[1], SAMPLES[1]]
LIMITS = Limits(min_pixels=1024, max_pixels=8192)
MIXING = InputBuilder(CONFIG, SMALL, LIMITS)


def test_answers_alone_are_learned() -> None:
    batch = MIXING.build(MIXED)
    assert batch.labelled is not None
    assert batch.targets is not None
    length = batch.input_ids.shape[1]
    assert torch.equal(batch.input_ids.flatten()[batch.labelled + 1], batch.targets)
    rows = batch.labelled // length
    learned = [SMALL.decode(batch.targets[rows == row]) for row in range(len(MIXED))]
    assert learned == ["A red cube.<|im_end|>", "", "Nothing.<|im_end|>The cube.<|im_end|>", ""]
    assert BUILDER.build(SAMPLES).labelled is None
    assert BUILDER.build(SAMPLES).targets is None


def test_prompts_and_conversations_are_the_same_alone_and_in_one_batch() -> None:
    batch = MIXING.build(MIXED)
    assert batch.pixel_values is not None
    assert batch.image_grid_thw is not None
    assert batch.image_grid_thw.tolist() == [[1, 2, 6], [1, 4, 4], [1, 4, 4], [1, 4, 4], [1, 4, 4], [1, 6, 2]]
    patches = 0
    for row, sample in enumerate(MIXED):
        alone = MIXING.build([sample])
        length = alone.input_ids.shape[1]
        assert torch.equal(alone.input_ids[0], batch.input_ids[row, :length])
        assert torch.equal(alone.positions[:, 0], batch.positions[:, row, :length])
        if alone.pixel_values is not None:
            assert torch.equal(alone.pixel_values, batch.pixel_values[patches : patches + len(alone.pixel_values)])
            patches += len(alone.pixel_values)
    assert patches == len(batch.pixel_values)
    last = fitted(CONVERSATIONS[1].seen()[1], LIMITS, 32, 2)[0]
    assert torch.equal(batch.pixel_values[-12:], patchify(torch.from_numpy(last)))


def test_a_conversation_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        PolicyError, match=r"has \d+ tokens, 78 of them for images and 0 for videos; the limit is 80, see Limits"
    ):
        InputBuilder(CONFIG, SMALL, Limits(max_tokens=80)).build([CONVERSATIONS[0]])


def test_a_batch_without_images_has_none() -> None:
    batch = BUILDER.build([SAMPLES[1], SAMPLES[1]])
    assert batch.pixel_values is None
    assert torch.equal(batch.positions[0, 0], torch.arange(batch.input_ids.shape[1]))


def test_images_are_fitted_as_the_model_declares() -> None:
    wide = Prompted(SAMPLES[0].text, (("ego", noise(5, HEIGHT, 2 * WIDTH)),))
    fitted = {fit: InputBuilder(replace(CONFIG, image_fit=fit), SMALL).build([wide]).pixel_values for fit in ("pad", "crop")}
    assert fitted["pad"] is not None
    assert fitted["crop"] is not None
    middle = wide.views[0][1][:, WIDTH // 2 : WIDTH // 2 + WIDTH]
    assert torch.equal(fitted["crop"], patchify(torch.from_numpy(middle.copy())[None]))
    assert (fitted["pad"] == -1).sum() >= fitted["pad"].numel() // 2  # black


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(PolicyError, match="widowx_bridge has no view 'cam_left_wrist'; it has ego"):
        prompted(observation("wave", cam_left_wrist=noise(0)[None]), WIDOWX_BRIDGE, 16)
    with pytest.raises(PolicyError, match=r"the view 'ego' has shape \[.*\]; expected frames"):
        prompted(observation("wave", ego=noise(0)), WIDOWX_BRIDGE, 16)
    with pytest.raises(PolicyError, match="ur10e has no view 'ego'; it has none"):
        prompted(observation("wave", ego=noise(0)[None]), embodiment_named("ur10e"), 16)
    with pytest.raises(PolicyError, match="there are no samples"):
        BUILDER.build([])
    with pytest.raises(PolicyError, match="unknown view 'back'"):
        BUILDER.build([Prompted("wave.", (("back", noise(0)),))])


def test_a_tokenizer_of_another_model_is_refused() -> None:
    backbone = CONFIG.backbone
    with pytest.raises(
        PolicyError, match="the model's image_token_id is 99, the tokenizer's is 6; take the model's own tokenizer"
    ):
        InputBuilder(replace(CONFIG, backbone=backbone | {"image_token_id": 99}), SMALL)
    narrow = backbone | {"text_config": backbone["text_config"] | {"vocab_size": 512}}
    with pytest.raises(PolicyError, match=r"needs \d+ rows, the model's embedding has 512; resize the embedding"):
        InputBuilder(replace(CONFIG, backbone=narrow), SMALL)


def test_the_state_goes_into_the_text() -> None:
    sample = prompted(observation("wave", ego=noise(0)[None]), ROBOTWIN_ALOHA, 16, state=[0, 255])
    assert sample.text.endswith("task: state: [0, 255] wave.")
