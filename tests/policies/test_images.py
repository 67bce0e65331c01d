"""Images brought to the size that a policy declares."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import ImageFit, fit_image

FITS = get_args(ImageFit)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("fit", FITS)
def test_an_image_of_the_right_size_is_left_alone(fit: ImageFit) -> None:
    image = noise(64, 96)
    assert fit_image(image, 64, 96, fit) is image


@pytest.mark.parametrize("fit", FITS)
def test_a_change_of_scale_alone_is_pillows_bilinear(fit: ImageFit) -> None:
    image = noise(128, 192)
    expected = np.array(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit_image(image, 64, 96, fit), expected)


@pytest.mark.parametrize(("height", "width", "inner"), [(480, 640, (168, 224)), (640, 480, (224, 168)), (50, 300, (37, 224))])
def test_padding_keeps_the_whole_image_between_equal_black_borders(height: int, width: int, inner: tuple[int, int]) -> None:
    image = np.maximum(noise(height, width), 1)
    fitted = fit_image(image, 224, 224, "pad")
    top, left = (224 - inner[0]) // 2, (224 - inner[1]) // 2
    within = fitted[top : top + inner[0], left : left + inner[1]]
    np.testing.assert_array_equal(within, np.array(Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR)))
    assert fitted.sum() == within.sum()


def test_cropping_keeps_the_middle() -> None:
    image = noise(60, 100)
    np.testing.assert_array_equal(fit_image(image, 60, 60, "crop"), image[:, 20:80])
    np.testing.assert_array_equal(fit_image(image, 30, 100, "crop"), image[15:45])
    whole = np.array(Image.fromarray(np.ascontiguousarray(image[:, 20:80])).resize((30, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit_image(image, 30, 30, "crop"), whole)


def test_stretching_keeps_every_edge() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, -20:] = 200
    fitted = fit_image(image, 40, 40, "stretch")
    assert (fitted[:, -9:] == 200).all()
    assert not fitted[:, :29].any()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (3, 2)])
def test_odd_shapes_have_the_declared_size_too(fit: ImageFit, height: int, width: int) -> None:
    assert fit_image(noise(height, width), 32, 64, fit).shape == (32, 64, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"an image is float32\[4, 4, 3\]; expected uint8\[height, width, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), r"an image is uint8\[3, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"an image is uint8\[0, 4, 3\]"),
        ("no image", "an image is str"),
    ],
)
def test_what_is_no_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        fit_image(image, 8, 8, "pad")  # type: ignore[arg-type]
