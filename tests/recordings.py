"""Small recordings for tests: films in which each frame shows its number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image


def grey(index: int) -> int:
    """The brightness of a frame, 40 values that differ by more than a codec's error."""
    return 20 + 5 * (index % 40)


def film(path: Path, frames: int, rate: int = 30, height: int = 48, width: int = 64) -> None:
    """A video of plain grey frames."""
    write_film(path, [np.full((height, width, 3), grey(index), np.uint8) for index in range(frames)], rate)


def write_film(path: Path, images: Sequence[np.ndarray], rate: int = 30) -> None:
    """An H.264 video, with B frames and a key frame each 12 frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "12", "bf": "2", "threads": "1"}
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def images(folder: Path, frames: int, height: int = 48, width: int = 64) -> None:
    """The same as a folder of images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        Image.fromarray(np.full((height, width, 3), grey(index), np.uint8)).save(folder / f"{index:05d}.png")


def frame_shown(image: np.ndarray) -> int:
    """Which of the first 40 frames an image is."""
    return round((float(image.mean()) - 20) / 5)
