"""A watch over actions beyond their channels' bounds: envs clip them in silence, so a wrong scale looks like a bad policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...envs.embodiments import Embodiment
from ...results.records import Attempt
from ..engine import Transition

#: Part of a channel's range by which an action may exceed it without a warning: networks overshoot by a little.
TOLERANCE = 0.01


class _Seen:
    """Statistics of one embodiment's actions.

    Attributes:
        low, high: The bounds, ``float64[A]``.
        least, most: Least and greatest values so far, ``float64[A]``.
        beyond: Steps that lay beyond, ``int64[A]``.
        steps: Steps in all.
        reported: Channels with a warning.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.low = np.array([channel.low for channel in embodiment.channels], np.float64)
        self.high = np.array([channel.high for channel in embodiment.channels], np.float64)
        self.least, self.most = np.full_like(self.low, np.inf), np.full_like(self.high, -np.inf)
        self.beyond = np.zeros(len(self.low), np.int64)
        self.steps = 0
        self.reported: set[int] = set()
        self._margin = TOLERANCE * (self.high - self.low)

    def add(self, actions: np.ndarray) -> None:
        """Add a chunk, ``float32[H, A]``."""
        self.steps += len(actions)
        np.minimum(self.least, actions.min(axis=0), out=self.least)
        np.maximum(self.most, actions.max(axis=0), out=self.most)
        self.beyond += ((actions < self.low - self._margin) | (actions > self.high + self._margin)).sum(axis=0)


class BoundsWatch:
    """A sink that warns once of each channel whose actions lie beyond its bounds, when the first such episode is over.

    Args:
        warn: Called with the message.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._seen: dict[str, _Seen] = {}

    async def emit(self, transition: Transition) -> None:
        """Check the steps of a chunk."""
        embodiment = transition.request.embodiment
        seen = self._seen.get(embodiment.name)
        if seen is None:
            seen = self._seen[embodiment.name] = _Seen(embodiment)
        seen.add(transition.actions)
        if transition.result.over:
            self._report(embodiment, seen)

    async def fault(self, attempt: Attempt) -> None:
        """A failed attempt says nothing about actions."""

    def _report(self, embodiment: Embodiment, seen: _Seen) -> None:
        new = [number for number in np.flatnonzero(seen.beyond).tolist() if number not in seen.reported]
        if not new:
            return
        seen.reported.update(new)
        ranges = ", ".join(
            f"{embodiment.channels[number].name} from {seen.least[number]:.4g} to {seen.most[number]:.4g} (bounds "
            f"{seen.low[number]:.4g} to {seen.high[number]:.4g}) in {seen.beyond[number]}"
            for number in new
        )
        self._warn(
            f"the policy's actions lie beyond the bounds of {embodiment.name}: {ranges} of {seen.steps} steps so far; the env clips "
            "them, so check their scale and the policy's normalisation"
        )
