"""Exact quantiles of a data set that is larger than memory: each channel's numbers lie in a temporary file of their own.

The files take 8 bytes a number, where ``tempfile`` puts them (``TMPDIR``). numpy selects within the mapped file, so memory does not
grow with the data, and trajectories are read once.

Shapes: ``J`` steps of a trajectory, ``A`` channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..api import PolicyError


class Steps(ExitStack):
    """The steps of a data set's trajectories; a context manager, which closes their files.

    Args:
        source: The data set's name.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self._channels: list[Any] = []
        self._trajectories = 0

    def add(self, trajectory: np.ndarray) -> None:
        """Append a trajectory, ``[J, A]``, ``J`` of any size."""
        array = np.asarray(trajectory)
        if not self._channels and array.ndim == 2:
            self._channels = [self.enter_context(tempfile.TemporaryFile()) for _ in array.T]  # noqa: SIM115
        what = f"trajectory {self._trajectories} of {self.source!r}"
        if array.ndim != 2 or array.shape[1] != len(self._channels) or not self._channels:
            raise PolicyError(
                f"{what} has the shape {array.shape}, expected (steps, channels) with one number of channels for all"
            )
        if not np.isfinite(array).all():
            raise PolicyError(f"{what} holds a number that is not finite; leave it out or repair it")
        for file, numbers in zip(self._channels, array.T, strict=True):
            file.write(numbers.astype(np.float64).tobytes())
        self._trajectories += 1

    def quantiles(self, fractions: Sequence[float]) -> np.ndarray:
        """Quantiles of each channel over all steps, ``float64[len(fractions), A]``, as ``np.quantile`` of their float64 gives them.

        Args:
            fractions: Each in 0 to 1.
        """
        if not self._channels or not self._channels[0].tell():
            raise PolicyError(f"trajectories of {self.source!r} hold 0 steps, and quantiles are of at least one")
        columns = [np.memmap(file, np.float64, "r+") for file in self._channels]
        return np.stack([np.quantile(column, fractions, overwrite_input=True) for column in columns], axis=1)
