"""Episodes whose images show their episode and frame; it needs numpy alone, so that LeRobot's environment has them too."""

from __future__ import annotations

import numpy as np

#: Frames of the episodes.
LENGTHS = (12, 30, 7)
TASKS = ("lift the cup", "wipe the table", "lift the cup")
SIZE = (48, 64)


def frame_image(episode: int, frame: int, view: int) -> np.ndarray:
    """``uint8[48, 64, 3]``: a bar as long as the frame's number over grey that says which episode and view it is."""
    image = np.full((*SIZE, 3), 60 + 40 * episode + 20 * view, np.uint8)
    image[:16, : 2 * frame + 2] = 250
    return image


def shown(image: np.ndarray) -> tuple[int, int, int]:
    """Episode, frame and view of a decoded :func:`frame_image`."""
    bar = int((image[4:12].mean((0, 2)) > 215).sum())
    code = round((float(image[24:].mean()) - 60) / 20)
    return code // 2, round((bar - 2) / 2), code % 2


def numbers(episode: int) -> tuple[np.ndarray, np.ndarray]:
    """States ``float32[T, 2]`` and actions ``float32[T, 3]``."""
    rng = np.random.default_rng([7, episode])
    return rng.normal(size=(LENGTHS[episode], 2)).astype(np.float32), rng.normal(size=(LENGTHS[episode], 3)).astype(np.float32)
