"""What the failures of an episode's env, worker, machine and policy cost it: one record for all of them, and one rule."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from ..envs.messages import CRASH, EPISODE_FAULTS, LOST, UNFIT
from ..results.records import Attempt

#: Failed attempts after which an episode is given up for this session.
MOST_ATTEMPTS = 3

#: How often an episode may be lost by deaths that are charged to no episode before it counts as their cause.
MOST_LOSSES = 10

logger = logging.getLogger(__name__)


class GivenUpError(Exception):
    """An episode failed :data:`MOST_ATTEMPTS` times, or once where its data are unfit, for reasons that are not the policy's."""


class Losses:
    """The failures of the episodes of a run that are not over.

    A failure of the episode itself (its request crashed or hung the simulator, exceeded its memory, or raised) is a failed attempt, and
    data that no simulator can play are the last one. A loss (the process died while another env's request ran; the worker, its machine
    or the policy's process is gone) costs nothing :data:`MOST_LOSSES` times; once more is a failed attempt, since an episode that is
    lost so often may be the cause.

    Args:
        note: Called with each failed attempt.
    """

    def __init__(self, note: Callable[[Attempt], Awaitable[None]] | None = None) -> None:
        self._note = note
        self._attempts: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()

    async def charge(self, key: str, worker: str, kind: str, reason: str, traceback: str = "") -> None:
        """Charge a failure to the episode that it interrupted.

        Args:
            key: The episode's.
            worker: Name of the worker that ran it.
            kind: One of the failures of :mod:`vlarig.envs.messages`.
            reason: The failure in a sentence.
            traceback: The adapter's, for the log; empty where it raised nothing.

        Raises:
            GivenUpError: The episode is given up.
        """
        if kind == LOST:
            self._losses[key] += 1
            if self._losses[key] <= MOST_LOSSES:
                return
            reason = (
                f"it was lost {self._losses.pop(key)} times by deaths that are charged to no episode; the last time: {reason}"
            )
            kind = CRASH
        if kind not in EPISODE_FAULTS:
            return
        self._attempts[key] += 1
        number = self._attempts[key]
        gave_up = kind == UNFIT or number >= MOST_ATTEMPTS
        if gave_up:
            self.forget(key)
        if traceback:
            logger.warning("%s, attempt %d, on %s\n%s", key, number, worker, traceback)
        if self._note is not None:
            await self._note(Attempt(key, number, kind, reason, worker, gave_up))
        if gave_up:
            raise GivenUpError(f"{key} failed {number} times; the last time: {reason}")

    def forget(self, key: str) -> None:
        """Drop the record of an episode that is over."""
        self._attempts.pop(key, None)
        self._losses.pop(key, None)
