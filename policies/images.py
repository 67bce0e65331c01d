"""An image in the size that a policy declares: padded, stretched or cropped.

Clients of other policies and the embedded policy bring images to size here, so that a policy sees the same through all of them.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from ..envs.images import pil_bilinear
from .api import PolicyError

ImageFit: TypeAlias = Literal["pad", "stretch", "crop"]
"""How an image gets its size where the aspect differs, see :func:`fit_image`."""


def fit_image(image: np.ndarray, height: int, width: int, fit: ImageFit) -> np.ndarray:
    """``image`` in the size ``uint8[height, width, 3]``; itself where it has that size already.

    Scaling is Pillow's antialiased bilinear filter (:func:`~vlarig.envs.images.pil_bilinear`).

    Args:
        image: ``uint8[h, w, 3]``.
        height: Wanted height, in pixels.
        width: Wanted width, in pixels.
        fit: What is done where the aspect differs: ``pad`` keeps all of the image between black borders, as openpi does
            (Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/image_tools.py@15a9616, ``resize_with_pad``);
            ``stretch`` gives up the aspect; ``crop`` keeps the largest central part that has the wanted aspect.
    """
    _check(image)
    if image.shape[:2] == (height, width):
        return image
    if fit == "pad":
        return _padded(image, height, width)
    if fit == "crop":
        image = _cropped(image, height, width)
    return image if image.shape[:2] == (height, width) else pil_bilinear(np.ascontiguousarray(image), height, width)


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image, as large as it can be, in the centre of a black one; fractions are cut off as openpi cuts them."""
    ratio = max(image.shape[0] / height, image.shape[1] / width)
    inner = max(int(image.shape[0] / ratio), 1), max(int(image.shape[1] / ratio), 1)
    scaled = image if image.shape[:2] == inner else pil_bilinear(np.ascontiguousarray(image), *inner)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + inner[0], left : left + inner[1]] = scaled
    return padded


def _cropped(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest part about the centre with the aspect of ``height`` to ``width``, to the nearest pixel."""
    ratio = min(image.shape[0] / height, image.shape[1] / width)
    inner = max(round(height * ratio), 1), max(round(width * ratio), 1)
    top, left = (image.shape[0] - inner[0]) // 2, (image.shape[1] - inner[1]) // 2
    return image[top : top + inner[0], left : left + inner[1]]


def _check(image: Any) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or 0 in image.shape
    ):
        what = f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise PolicyError(f"an image is {what}; expected uint8[height, width, 3]")
