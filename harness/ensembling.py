"""Ensembling: one row out of what several overlapping chunks predict for the same moment.

It is the driver's business: what it makes are the rows that the simulator gets and the ledger records, so a replay needs none of it,
and the memory outlives a simulator that dies.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..envs.episode import Ensemble

#: Keeps the cosine with a row of zeros finite (starVLA/starVLA examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py
#: @0ed0aad, ``ensemble_action``).
TINY = 1e-7


class Ensembler:
    """What one episode's chunks predicted for rows that are still to come.

    Arithmetic is float64 and the result float32. For float32 predictions that is, to the last bit, what SimplerEnv's evaluators make of
    them. StarVLA's work in float32, whose exponential differs between processors; rounding aside, theirs are the same.

    Args:
        ensemble: The protocol's; ``None`` leaves every chunk as it is.
    """

    def __init__(self, ensemble: Ensemble | None) -> None:
        self._ensemble = ensemble
        self._ahead: deque[np.ndarray] = deque(maxlen=ensemble.horizon if ensemble else 0)
        """The newest chunks, oldest first, each without the rows whose moment is past."""

    def rows(self, chunk: np.ndarray, execute: int) -> np.ndarray:
        """The rows to carry out now, once for each chunk that a policy predicts.

        A row combines the predictions that reach its moment; a chunk that is too short for it has no say. So where chunks do not
        overlap, as with a policy that answers with one row, nothing changes.

        Args:
            chunk: ``float32[H, A]``, the newest chunk.
            execute: How many of its rows are carried out before the next one is predicted.

        Returns:
            ``float32[min(execute, H), A]``.
        """
        if self._ensemble is None:
            return chunk[:execute]
        count = min(execute, len(chunk))
        self._ahead.append(chunk)
        combined = [combine([each[row] for each in self._ahead if row < len(each)], self._ensemble) for row in range(count)]
        self._ahead = deque((each[count:] for each in self._ahead), self._ahead.maxlen)
        return np.stack(combined)


def combine(predictions: list[np.ndarray], ensemble: Ensemble) -> np.ndarray:
    """The weighted mean of ``predictions``, each ``float32[A]`` for the same moment, oldest first; ``float32[A]``."""
    if len(predictions) == 1:
        return predictions[0]
    rows = np.array(predictions, dtype=np.float64)
    if ensemble.rule == "mean":
        scores = -ensemble.alpha * np.arange(len(rows))
    else:
        lengths = np.sqrt((rows * rows).sum(axis=1))
        scores = ensemble.alpha * (rows * rows[-1]).sum(axis=1) / (lengths * lengths[-1] + TINY)
    weights = np.exp(scores - scores.max())  # the largest is 1, so that none overflows
    return ((weights / weights.sum())[:, None] * rows).sum(axis=0).astype(np.float32)
