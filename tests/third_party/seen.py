"""Actions that follow from all that a policy sees: one wrong pixel, number or word, and an episode goes another way."""

from __future__ import annotations

import hashlib

import numpy as np


def actions_seen(images: dict[str, np.ndarray], state: np.ndarray, instruction: str, shape: tuple[int, int]) -> np.ndarray:
    """``float32[shape]`` from images by name, ``uint8[h, w, 3]``, a state vector and an instruction."""
    digest = hashlib.sha256(instruction.encode())
    for name in sorted(images):
        digest.update(f"{name}{images[name].dtype}{images[name].shape}".encode() + images[name].tobytes())
    digest.update(f"{state.dtype}{state.shape}".encode() + state.tobytes())
    rng = np.random.default_rng(list(digest.digest()))
    return rng.uniform(-1, 1, shape).astype(np.float32)
