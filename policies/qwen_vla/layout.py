"""Where an embodiment's actions are in the chunk that all embodiments share (paper, section 2.4).

The ``A`` numbers of an action take the leading channels of ``K``, the steps of a shorter chunk the leading ones of ``H``; the rest
is zero, and a mask marks the valid entries.

Shapes: ``B`` samples, ``H`` steps and ``K`` channels of the shared chunk, ``A`` channels of an embodiment. ``steps`` are those of a
task's own chunk (the paper's ``H_task``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..api import PolicyError


@dataclass(frozen=True)
class ActionLayout:
    """The shared chunk's shape.

    Attributes:
        horizon: ``H``.
        channels: ``K``.
    """

    horizon: int
    channels: int

    def mask(self, steps: int, size: int) -> np.ndarray:
        """The valid entries, ``bool[H, K]``: the first ``steps`` of the chunk in the first ``size`` channels."""
        if not 1 <= size <= self.channels:
            raise PolicyError(
                f"an action of {size} channels does not fit the model's {self.channels}; take a model with as many channels or more"
            )
        if not 1 <= steps <= self.horizon:
            raise PolicyError(
                f"a chunk of {steps} steps does not fit the model's horizon of {self.horizon}; cut the chunk or take a longer model"
            )
        mask = np.zeros((self.horizon, self.channels), dtype=bool)
        mask[:steps, :size] = True
        return mask

    def place(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts a chunk in the leading steps and channels.

        Args:
            actions: ``[steps, A]``.

        Returns:
            ``float32[H, K]``, zero where there is no action, and its mask, ``bool[H, K]``.
        """
        if np.ndim(actions) != 2:
            raise PolicyError(f"an action chunk has the shape {np.shape(actions)}, expected (steps, channels)")
        mask = self.mask(*actions.shape)
        if not np.isfinite(actions).all():
            raise PolicyError("an action chunk holds a number that is not finite; drop the trajectory that it comes from")
        chunk = np.zeros(mask.shape, dtype=np.float32)
        chunk[: actions.shape[0], : actions.shape[1]] = actions
        return chunk, mask

    def masks(self, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
        """The masks of a batch, ``bool[B, H, K]``, of each sample's ``(T, A)``."""
        return np.stack([self.mask(steps, size) for steps, size in shapes])

    def take_batch(self, chunks: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The inverse of :meth:`place` for a batch ``[B, H, K]``: copies of the valid entries, of each sample's ``(T, A)``."""
        return [chunk[:steps, :size].copy() for chunk, (steps, size) in zip(chunks, shapes, strict=True)]
