"""What images show: boxes follow the image through all that a protocol does to it."""

from __future__ import annotations

import numpy as np
import pytest

from vlarig.envs.api import Camera, SceneObject
from vlarig.envs.images import as_seen
from vlarig.envs.scene_objects import FEWEST_PIXELS, box_of, objects_as_seen

HEIGHT, WIDTH = 120, 160
BOX = (30.0, 20.0, 70.0, 60.0)


def cube(box=BOX) -> SceneObject:
    return SceneObject("red cube", "cube", "red", box, (0.0, 0.0, 0.8), 1.0, 1.0)


@pytest.mark.parametrize(
    "camera",
    [
        Camera("ego", HEIGHT, WIDTH),
        Camera("ego", HEIGHT, WIDTH, mirror=True),
        Camera("ego", 64, 64, drawn=(HEIGHT, WIDTH), resize="pil_bilinear"),
        Camera("ego", HEIGHT, WIDTH, crop=0.6),
        Camera("ego", 96, 96, drawn=(HEIGHT, WIDTH), resize="pil_bilinear", mirror=True, crop=0.7),
    ],
)
def test_a_box_surrounds_the_same_thing_in_the_image_that_is_seen(camera) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top, right, bottom = map(int, BOX)
    image[top:bottom, left:right] = 255
    expected = box_of(as_seen(image, camera)[..., 0] > 127)
    (found,) = objects_as_seen([cube()], camera)
    assert expected is not None
    assert np.abs(np.subtract(found.box, expected)).max() < 1.6


def test_what_a_crop_cuts_off_is_not_described() -> None:
    assert objects_as_seen([cube((0, 0, 8, 8))], Camera("ego", HEIGHT, WIDTH, crop=0.5)) == ()


def test_a_few_pixels_are_no_thing() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3, 2 : 2 + FEWEST_PIXELS - 1] = True
    assert box_of(mask) is None
    mask[4, 5] = True
    assert box_of(mask) == (2, 3, 2 + FEWEST_PIXELS - 1, 5)
