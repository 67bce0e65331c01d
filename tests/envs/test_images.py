"""What a protocol does to an image, compared with the evaluators that its methods are copied from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlarig.envs.api import Camera
from vlarig.envs.episode import RESIZE_METHODS
from vlarig.envs.errors import VlarigError
from vlarig.envs.images import as_seen, centre_crop, cv2_area, cv2_linear, jpeg_lanczos3, lanczos3, pil_bilinear, through_jpeg

#: An image, and what TensorFlow 2.21 made of it by ``resize_image_for_policy`` and then ``center_crop_image`` of moojink/openvla-oft
#: experiments/robot/openvla_utils.py@213c5ff: from 28 x 28 to 23 x 23 pixels.
GOLDEN = Path(__file__).parent / "data" / "openvla_oft_picture.npz"

#: An image of 36 x 48 pixels, and what libraries make of it, by method and size. ``lanczos3`` is TensorFlow 2.21, called as in
#: ``_resize_image`` of simpler-env/SimplerEnv simpler_env/policies/octo/octo_model.py@4ab7178; ``cv2_area`` and ``cv2_linear`` are
#: ``cv2.resize`` of OpenCV 5.0 with ``INTER_AREA`` and by default. (OpenCV 4.5.5, 4.10 and 5.0 and the functions here were compared on
#: 1,500 images of other sizes, too: all equal.)
RESIZED = Path(__file__).parent / "data" / "resized_pictures.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def resized() -> dict[str, np.ndarray]:
    with np.load(RESIZED) as file:
        return dict(file)


def an_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours that change smoothly, with a box and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.stack([40 + 200 * x, 60 + 150 * y, 220 - 180 * x * y], axis=-1) + rng.normal(0, 5, (height, width, 3))
    image[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 10)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_a_plain_camera_shows_the_image_itself() -> None:
    image = an_image(24, 32)
    assert as_seen(image, Camera("ego", 24, 32)) is image


def test_mirroring_an_image_is_what_turning_a_bottom_up_one_does() -> None:
    upright = an_image(24, 32)
    bottom_up = upright[::-1]
    seen = as_seen(upright, Camera("ego", 24, 32, mirror=True))
    np.testing.assert_array_equal(seen, bottom_up[::-1, ::-1])
    assert seen.flags.c_contiguous


@pytest.mark.parametrize("size", [256, 360])
def test_pil_bilinear_is_the_call_of_starvla_and_openpi(size: int) -> None:
    image = an_image(size, size)
    starvla = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pil_bilinear(image, 224, 224), starvla)
    assert pil_bilinear(image, 100, 200).shape == (100, 200, 3)


def test_resizing_like_openvla_oft(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(jpeg_lanczos3(golden["picture"], 23, 23), golden["resized"])


@pytest.mark.parametrize(("method", "sizes"), [(lanczos3, 2), (cv2_area, 4), (cv2_linear, 3)])
def test_resizing_like_the_library(resized: dict[str, np.ndarray], method: Callable[..., np.ndarray], sizes: int) -> None:
    wanted = [image for name, image in resized.items() if name.startswith(method.__name__)]
    assert len(wanted) == sizes
    for image in wanted:
        np.testing.assert_array_equal(method(resized["picture"], *image.shape[:2]), image)


@pytest.mark.parametrize("size", [(36, 60), (40, 48)])
def test_an_area_cannot_grow(size: tuple[int, int]) -> None:
    with pytest.raises(VlarigError, match=f"not 36x48 into {size[0]}x{size[1]}; render larger ones"):
        cv2_area(an_image(36, 48), *size)


def test_cropping_like_openvla_oft(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(centre_crop(golden["resized"], 0.9), golden["cropped"])


def test_a_camera_does_it_all_in_order(golden: dict[str, np.ndarray]) -> None:
    camera = Camera("ego", 23, 23, drawn=(28, 28), mirror=True, resize="jpeg_lanczos3", crop=0.9)
    np.testing.assert_array_equal(as_seen(golden["picture"][:, ::-1], camera), golden["cropped"])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 37), (16, 90)])
def test_a_jpeg_is_near_what_another_decoder_makes_of_it(height: int, width: int, tmp_path: Path) -> None:
    image = an_image(height, width)
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=95)
    difference = through_jpeg(image).astype(int) - np.array(Image.open(tmp_path / "image.jpg"))
    assert np.abs(difference).mean() < 2


def test_scaling_keeps_one_colour_and_the_place_of_an_edge() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(jpeg_lanczos3(grey, 28, 28), np.full((28, 28, 3), 128, np.uint8))
    edge = grey.copy()
    edge[:, 16:] = 250
    scaled = jpeg_lanczos3(edge, 64, 16)
    assert (scaled[:, 7] < 189).all()
    assert (scaled[:, 8] > 189).all()


def test_a_crop_of_everything_changes_nothing_and_a_smaller_one_shows_the_middle() -> None:
    image = an_image(33, 33)
    np.testing.assert_array_equal(centre_crop(image, 1.0), image)
    framed = np.zeros((41, 41, 3), np.uint8)
    framed[10:31, 10:31] = 200
    assert (centre_crop(framed, 0.25) == 200).all()


@pytest.mark.parametrize("method", ["pil_bilinear", "jpeg_lanczos3"])
def test_a_runtime_without_pillow_names_what_to_install(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    camera = Camera("ego", 24, 24, drawn=(32, 32), resize=method)
    with pytest.raises(VlarigError, match="lacks; install pillow"):
        as_seen(an_image(32, 32), camera)


@pytest.mark.parametrize("method", ["cv2_area", "cv2_linear"])
def test_a_runtime_without_opencv_names_what_to_install(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    camera = Camera("ego", 24, 24, drawn=(32, 32), resize=method)
    with pytest.raises(VlarigError, match="lacks; install opencv-python-headless"):
        as_seen(an_image(32, 32), camera)


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_every_method_gives_the_seen_size(method: str) -> None:
    camera = Camera("ego", 20, 28, drawn=(32, 48), resize=method, crop=0.8)
    seen = as_seen(an_image(32, 48), camera)
    assert (seen.shape, seen.dtype) == ((20, 28, 3), np.uint8)
    assert not np.array_equal(seen, as_seen(an_image(32, 48, seed=1), camera))
