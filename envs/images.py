"""What a protocol does to a camera's image before the policy sees it: mirror, resize, crop.

Published policies were trained on images that went through these very steps, so they are copied to the grey level where that is
possible; each function documents its difference. Images are ``uint8[height, width, 3]``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from .episode import Camera
from .errors import VlarigError

#: Quality of TensorFlow's ``tf.image.encode_jpeg``, which OpenVLA-OFT calls without arguments.
JPEG_QUALITY = 95


def as_seen(image: np.ndarray, camera: Camera) -> np.ndarray:
    """An upright image of the size of ``camera.as_drawn``, ``uint8[h, w, 3]``, as the policy sees it through ``camera``.

    That is ``uint8[height, width, 3]``, contiguous; the image itself where nothing changes.
    """
    if not (camera.mirror or camera.resize or camera.crop < 1.0):
        return image
    drawn = camera.as_drawn
    if image.shape != (drawn.height, drawn.width, 3) or image.dtype != np.uint8:
        raise VlarigError(
            f"render_view gave {image.dtype}{list(image.shape)} for the view {camera.view!r}; "
            f"expected uint8{[drawn.height, drawn.width, 3]}, the size of the camera in the protocol"
        )
    if camera.mirror:
        image = image[:, ::-1]
    image = np.ascontiguousarray(image)
    if camera.resize:
        image = _METHODS[camera.resize](image, camera.height, camera.width)
    return centre_crop(image, camera.crop) if camera.crop < 1.0 else image


def pil_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` scaled to ``uint8[height, width, 3]`` by Pillow's antialiased bilinear filter; equal to upstream's.

    StarVLA resizes so (starVLA/starVLA examples/simBenchmarks/LIBERO/eval_files/model2libero_interface.py@0ed0aad, ``step``), and
    openpi (Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/image_tools.py@15a9616, ``resize_with_pad``), whose
    padding is nothing as long as the shape of the image is that of the result.
    """
    whole = _pillow().fromarray(image)
    return np.array(whole.resize((width, height), resample=_pillow().Resampling.BILINEAR))


def jpeg_lanczos3(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` as JPEG and back, then scaled to ``uint8[height, width, 3]`` by :func:`lanczos3`.

    OpenVLA-OFT resizes so, with TensorFlow (moojink/openvla-oft experiments/robot/openvla_utils.py@213c5ff,
    ``resize_image_for_policy``). The JPEG is equal to TensorFlow's.
    """
    return lanczos3(through_jpeg(image), height, width)


def lanczos3(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` scaled to ``uint8[height, width, 3]`` by an antialiased Lanczos filter of radius 3.

    SimplerEnv resizes so for Octo, with TensorFlow (simpler-env/SimplerEnv simpler_env/policies/octo/octo_model.py@4ab7178,
    ``_resize_image``). Compared with TensorFlow 2.21, about one number of an image in 100,000 differs, by one grey level, where the
    sum of the filter's parts ends within a rounding error of a half.
    """
    pixels = _scale(image.astype(np.float32), _lanczos3(image.shape[0], height), axis=0)
    pixels = _scale(pixels, _lanczos3(image.shape[1], width), axis=1)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)  # halves to the even number


def cv2_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` scaled down to ``uint8[height, width, 3]``: each pixel is the mean of the area that it covers; upstream's own call.

    StarVLA resizes so for SimplerEnv, with OpenCV's ``INTER_AREA`` (starVLA/starVLA
    examples/simBenchmarks/SimplerEnv/eval_files/model2simpler_interface.py@0ed0aad, ``_resize_image``).
    """
    size = image.shape[:2]
    if height > size[0] or width > size[1]:
        raise VlarigError(
            f"cv2_area only makes images smaller, not {size[0]}x{size[1]} into {height}x{width}; render larger ones"
        )
    return _opencv().resize(image, (width, height), interpolation=_opencv().INTER_AREA)


def cv2_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` in the size ``uint8[height, width, 3]``, each pixel mixed of its two by two neighbours; upstream's own call.

    GR00T's evaluator resizes so for SimplerEnv, with OpenCV's default ``INTER_LINEAR`` (NVIDIA/Isaac-GR00T
    gr00t/eval/sim/SimplerEnv/simpler_env.py@626af89), which does no antialiasing.
    """
    return _opencv().resize(image, (width, height))


def through_jpeg(image: np.ndarray) -> np.ndarray:
    """``image`` encoded as JPEG and decoded again, as TensorFlow does both.

    TensorFlow decodes with libjpeg's fast cosine transform and smooth colours. Pillow has the fast transform only together with
    colours in blocks of 2 x 2 pixels, so it decodes to those blocks, and they are smoothed here (libjpeg-turbo jdsample.c,
    ``h2v2_fancy_upsample``).
    """
    file = io.BytesIO()
    _pillow().fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    opened = _pillow().open(file)
    opened.draft("YCbCr", None)
    opened.decoderconfig = (1, 1)  # scale 1; fast transform, no smoothing
    planes = np.array(opened).astype(np.int32)
    blue, red = (_smooth(planes[::2, ::2, channel])[: planes.shape[0], : planes.shape[1]] - 128 for channel in (1, 2))
    return _to_rgb(planes[:, :, 0], blue, red)


def _smooth(plane: np.ndarray) -> np.ndarray:
    """A plane of ``int32[h, w]`` in twice the size: three parts of the nearest number, one part of the next, in both directions."""
    padded = np.pad(plane, 1, mode="edge")
    columns = np.empty((2 * plane.shape[0], padded.shape[1]), np.int32)
    columns[0::2] = 3 * padded[1:-1] + padded[:-2]
    columns[1::2] = 3 * padded[1:-1] + padded[2:]
    smooth = np.empty((columns.shape[0], 2 * plane.shape[1]), np.int32)
    smooth[:, 0::2] = (3 * columns[:, 1:-1] + columns[:, :-2] + 8) >> 4
    smooth[:, 1::2] = (3 * columns[:, 1:-1] + columns[:, 2:] + 7) >> 4
    return smooth


def _to_rgb(light: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """JPEG's colours as ``uint8[h, w, 3]``: libjpeg-turbo jdcolor.c, whose fractions are in 65536ths."""
    half = 1 << 15
    channels = (
        light + ((91881 * red + half) >> 16),
        light + ((-22554 * blue - 46802 * red + half) >> 16),
        light + ((116130 * blue + half) >> 16),
    )
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def centre_crop(image: np.ndarray, share: float) -> np.ndarray:
    """The centre of ``image``, ``share`` of its area, scaled back to its size bilinearly.

    OpenVLA-OFT crops so (moojink/openvla-oft experiments/robot/openvla_utils.py@213c5ff, ``center_crop_image``): TensorFlow's
    ``tf.image.crop_and_resize`` samples between the crop's corner pixels, without antialiasing, on numbers from 0 to 1.
    """
    height, width, _ = image.shape
    pixels = image.astype(np.float32) * np.float32(1 / 255)
    top, bottom, down = _samples(height, share)
    left, right, across = _samples(width, share)
    across, down = across[None, :, None], down[:, None, None]
    upper = pixels[top][:, left] + (pixels[top][:, right] - pixels[top][:, left]) * across
    lower = pixels[bottom][:, left] + (pixels[bottom][:, right] - pixels[bottom][:, left]) * across
    cropped = np.clip(upper + (lower - upper) * down, 0, 1)
    return (cropped * np.float32(255.5)).astype(np.uint8)


def _samples(size: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``size`` pixels of a crop's side: the pixels before and after it, and how far it lies between them."""
    side = np.sqrt(np.float32(share))
    begin = (np.float32(1) - side) / np.float32(2)
    end = begin + side
    step = (end - begin) * np.float32(size - 1) / np.float32(max(size - 1, 1))
    places = begin * np.float32(size - 1) + np.arange(size, dtype=np.float32) * step
    before = np.floor(places)
    return before.astype(int), np.ceil(places).astype(int), places - before


def _scale(pixels: np.ndarray, filtered: tuple[np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    """``pixels[h, w, 3]`` with its rows (axis 0) or columns (axis 1) filtered, ``float32``.

    Parts are added one after the other, as TensorFlow does it, so that they round in the same way.
    """
    firsts, weights = filtered
    shape = [*pixels.shape]
    shape[axis] = len(firsts)
    scaled = np.zeros(shape, np.float32)
    for part, share in enumerate(weights.T):
        places = np.minimum(firsts + part, pixels.shape[axis] - 1)
        scaled += pixels.take(places, axis) * share.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
    return scaled


@functools.lru_cache(maxsize=16)
def _lanczos3(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``wanted`` pixels, the first of those that it is made from and their weights, ``float32[wanted, parts]``.

    Centres of pixels lie at halves, and the filter is as wide as a pixel of the result where that is larger
    (tensorflow/core/kernels/image/scale_and_translate_op.cc).
    """
    scale = np.float32(1) / np.float32(wanted / size)
    stretch = max(scale, np.float32(1))
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale
    firsts = np.maximum(np.ceil(centres - 3 * stretch - np.float32(0.5)), 0).astype(int)
    places = firsts[:, None] + np.arange(int(6 * stretch) + 1)
    distance = (places.astype(np.float32) + np.float32(0.5) - centres[:, None]) * (np.float32(1) / stretch)
    weights = np.where((np.abs(distance) < 3) & (places < size), np.sinc(distance) * np.sinc(distance / 3), 0.0)
    weights = weights.astype(np.float32)
    return firsts, weights / weights.sum(axis=1, keepdims=True)


def _pillow() -> Any:
    """Pillow's ``Image`` module; imported here alone, since most protocols do not need it."""
    try:
        from PIL import Image
    except ImportError:
        raise VlarigError("this protocol resizes images with Pillow, which this runtime lacks; install pillow in it") from None
    return Image


def _opencv() -> Any:
    """OpenCV, kept to one thread, since a machine's workers are as many as its cores."""
    try:
        import cv2
    except ImportError:
        raise VlarigError(
            "this protocol resizes images with OpenCV, which this runtime lacks; install opencv-python-headless in it"
        ) from None
    cv2.setNumThreads(1)
    return cv2


_METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    method.__name__: method for method in (pil_bilinear, jpeg_lanczos3, lanczos3, cv2_area, cv2_linear)
}
