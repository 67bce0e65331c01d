"""Where actions are in the shared chunk, and that a round trip keeps them."""

from __future__ import annotations

import numpy as np
import pytest

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.normalization import ActionLayout

LAYOUT = ActionLayout(horizon=16, channels=64)


def chunk(steps: int, size: int) -> np.ndarray:
    return np.random.default_rng(steps * size).normal(size=(steps, size)).astype(np.float32)


def test_actions_take_the_leading_channels_and_steps_and_the_rest_is_zero():
    actions = chunk(8, 3)
    placed, mask = LAYOUT.place(actions)
    assert placed.shape == mask.shape == (16, 64)
    assert placed.dtype == np.float32
    assert mask.dtype == bool
    np.testing.assert_array_equal(placed[:8, :3], actions)
    assert mask[:8, :3].all()
    assert mask.sum() == 24
    assert not placed[~mask].any()


def test_a_batch_of_different_embodiments_comes_back_as_it_went_in():
    chunks = [chunk(16, 7), chunk(8, 3), chunk(16, 29), chunk(1, 1), chunk(16, 64)]
    placed, masks = (np.stack(each) for each in zip(*map(LAYOUT.place, chunks), strict=True))
    shapes = [actions.shape for actions in chunks]
    np.testing.assert_array_equal(masks, LAYOUT.masks(shapes))
    for actions, back in zip(chunks, LAYOUT.take_batch(placed, shapes), strict=True):
        np.testing.assert_array_equal(back, actions)


def test_what_is_taken_is_a_copy():
    placed, _ = LAYOUT.place(chunk(8, 3))
    LAYOUT.take_batch(placed[None], [(8, 3)])[0][:] = 9
    assert not (placed == 9).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LAYOUT.place(chunk(16, 65)), "action of 65 channels does not fit the model's 64"),
        (lambda: LAYOUT.place(chunk(17, 7)), "chunk of 17 steps does not fit the model's horizon of 16"),
        (lambda: LAYOUT.mask(16, 0), "action of 0 channels"),
        (lambda: LAYOUT.place(np.zeros((0, 7))), "chunk of 0 steps"),
        (lambda: LAYOUT.place(np.zeros(7)), r"shape \(7,\), expected \(steps, channels\)"),
        (lambda: LAYOUT.place(np.full((2, 7), np.nan)), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, words):
    with pytest.raises(PolicyError, match=words):
        make()
