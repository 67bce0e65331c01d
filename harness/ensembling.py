"""Ensembling: one step out of several overlapping chunks' predictions for the same step.

It runs in the driver: its steps are those that the simulator gets and the ledger records, so a replay does not need it, and its state
outlives a simulator that dies.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..envs.episode import Ensemble

#: Keeps the cosine with an action of zeros finite (starVLA/starVLA examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py
#: @0ed0aad, ``ensemble_action``).
TINY = 1e-7


class Ensembler:
    """One episode's predictions for steps that are still to come.

    Arithmetic is float64 and the result float32. For float32 predictions the result equals that of SimplerEnv's evaluators to the last
    bit. StarVLA's evaluators work in float32, whose exponential differs between processors; rounding aside, theirs equals it too.

    Args:
        ensemble: The protocol's; ``None`` leaves every chunk as it is.
    """

    def __init__(self, ensemble: Ensemble | None) -> None:
        self._ensemble = ensemble
        self._ahead: deque[np.ndarray] = deque(maxlen=ensemble.horizon if ensemble else 0)
        """The newest chunks, oldest first, each without the steps that are past."""

    def steps(self, chunk: np.ndarray, n_action_steps: int) -> np.ndarray:
        """The steps to carry out now, once for each chunk that a policy predicts.

        A step combines the predictions that reach it; a chunk that is too short for it does not count. So where chunks do not
        overlap, as with a policy that answers with one step, nothing changes.

        Args:
            chunk: ``float32[H, A]``, the newest chunk.
            n_action_steps: How many of its steps are carried out before the next one is predicted.

        Returns:
            ``float32[min(n_action_steps, H), A]``.
        """
        if self._ensemble is None:
            return chunk[:n_action_steps]
        count = min(n_action_steps, len(chunk))
        self._ahead.append(chunk)
        combined = [combine([each[step] for each in self._ahead if step < len(each)], self._ensemble) for step in range(count)]
        self._ahead = deque((each[count:] for each in self._ahead), self._ahead.maxlen)
        return np.stack(combined)


def combine(predictions: list[np.ndarray], ensemble: Ensemble) -> np.ndarray:
    """The weighted mean of ``predictions``, each ``float32[A]`` for the same step, oldest first; ``float32[A]``."""
    if len(predictions) == 1:
        return predictions[0]
    steps = np.array(predictions, dtype=np.float64)
    if ensemble.rule == "mean":
        scores = -ensemble.alpha * np.arange(len(steps))
    else:
        lengths = np.sqrt((steps * steps).sum(axis=1))
        scores = ensemble.alpha * (steps * steps[-1]).sum(axis=1) / (lengths * lengths[-1] + TINY)
    weights = np.exp(scores - scores.max())  # the largest is 1, so that none overflows
    return ((weights / weights.sum())[:, None] * steps).sum(axis=0).astype(np.float32)
