"""A watch over actions beyond their channels' bounds: envs clip them in silence, so a wrong scale looks like a bad policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from ...envs.embodiments import Embodiment
from ...results.records import Attempt
from ..engine import Transition

#: Part of a channel's range by which an action may exceed it without a warning: networks overshoot by a little.
TOLERANCE = 0.01


class BoundsWatch:
    """A sink that warns once of each channel whose actions lie beyond its bounds, when the first such episode is over.

    Args:
        warn: Called with the message.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._chunks: dict[int, list[np.ndarray]] = {}
        self._warned: defaultdict[str, set[int]] = defaultdict(set)

    async def emit(self, transition: Transition) -> None:
        """Keep the steps of a chunk; with an episode's last, check them all."""
        request = transition.request
        if request.chunk == 0:
            self._chunks[request.env] = []
        self._chunks[request.env].append(transition.actions)
        if transition.result.over:
            self._check(request.embodiment, np.concatenate(self._chunks.pop(request.env)))

    async def fault(self, attempt: Attempt) -> None:
        """A failed attempt says nothing about actions."""

    def _check(self, embodiment: Embodiment, actions: np.ndarray) -> None:
        """Check an episode's actions, ``float32[T, A]``."""
        low, high = np.array([(channel.low, channel.high) for channel in embodiment.channels]).T
        margin = TOLERANCE * (high - low)
        beyond = ((actions < low - margin) | (actions > high + margin)).sum(axis=0)
        new = set(np.flatnonzero(beyond).tolist()) - self._warned[embodiment.name]
        if not new:
            return
        self._warned[embodiment.name] |= new
        least, most = actions.min(axis=0), actions.max(axis=0)
        ranges = ", ".join(
            f"{embodiment.channels[number].name} from {least[number]:.4g} to {most[number]:.4g} (bounds {low[number]:.4g} to "
            f"{high[number]:.4g}) in {beyond[number]}"
            for number in sorted(new)
        )
        self._warn(
            f"the policy's actions lie beyond the bounds of {embodiment.name}: {ranges} of {len(actions)} steps of an episode; the env "
            "clips them, so check their scale and the policy's normalisation"
        )
