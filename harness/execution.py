"""Execution: which of the predicted steps are run, where chunks overlap (ensembles) and where answers are late (latency).

It runs in the driver: its steps are those that the simulator gets and the ledger records, so a replay does not need it, and its state
outlives a simulator that dies.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..envs.embodiments import Embodiment
from ..envs.episode import Ensemble, Protocol

#: Keeps the cosine with an action of zeros finite (starVLA/starVLA examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py
#: @0ed0aad, ``ensemble_action``).
TINY = 1e-7


class Execution:
    """The steps of one episode.

    Without ``delay_steps`` they are the first ``n_action_steps`` of each chunk, or the ensemble's. With it, a request is followed by
    the steps that are run before its answer arrives, then by the answer's. The delay is counted in control steps and not in seconds: it
    is the same on every machine.

    Args:
        protocol: The episode's.
        embodiment: What it moves.
    """

    def __init__(self, protocol: Protocol, embodiment: Embodiment) -> None:
        self._protocol = protocol
        self._embodiment = embodiment
        self._ensembler = Ensembler(protocol.ensemble)
        self._late = np.zeros((0, embodiment.action_size), np.float32)
        """The steps that are run before the answer to the newest request arrives."""
        self._left = self._late
        """What is left of the newest chunk."""
        self._last: np.ndarray | None = None
        """The last step of the episode so far."""

    def ask(self, state: np.ndarray) -> np.ndarray | None:
        """Begin a request at the state ``[P]``; its :attr:`~vlarig.policies.api.Request.prefix`."""
        delay = self._protocol.delay_steps
        if not delay:
            return None
        waits = np.tile(self._still(state), (delay - len(self._left), 1))
        self._late = np.concatenate([self._left, waits])
        return self._late if self._protocol.meanwhile == "prefix" and self._last is not None else None

    def steps(self, chunk: np.ndarray) -> np.ndarray:
        """The steps to run until the next request, ``float32[run_steps, A]`` or fewer where the chunk is shorter.

        Args:
            chunk: ``float32[H, A]``, the answer.
        """
        count, delay = self._protocol.n_action_steps, self._protocol.delay_steps
        if not delay:
            return self._ensembler.steps(chunk, count)
        if self._protocol.meanwhile == "still":
            begin, end = 0, count
        else:  # the first chunk begins where the robot has waited for it
            begin = 0 if self._last is None else delay
            end = begin + count - delay
            self._left = chunk[end : end + delay]
        steps = np.concatenate([self._late, chunk[begin:end]])
        self._last = steps[-1]
        return steps

    def _still(self, state: np.ndarray) -> np.ndarray:
        """The step that stays where the robot is: an absolute channel keeps what it was last sent, such as a closed gripper."""
        still = self._embodiment.still(state)
        if self._last is not None:
            absolute = [channel.kind == "absolute" for channel in self._embodiment.channels]
            still = np.where(absolute, self._last, still)
        return still


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
