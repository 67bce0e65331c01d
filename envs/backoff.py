"""Pauses between retries, and when to give up: one rule for processes that die and for machines that are away."""

from __future__ import annotations

from typing import Optional

#: Failures in a row after which a target that never worked is given up: it probably cannot.
MOST_FAILURES_AT_FIRST = 5

#: Failures in a row after which a target that worked is given up. The pauses make that five minutes: the machine may be out of
#: memory, or processes may be killed from outside.
MOST_FAILURES_IN_A_ROW = 12

#: Seconds of pause after the second failure in a row, doubled with every further one, and the longest. After the first there is none.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

#: Seconds for which a machine that is away is looked for: it may restart, or its network may recover.
LONGEST_ABSENCE = 3600.0


class Backoff:
    """Counts failures in a row, and returns the pause before the next try.

    Args:
        longest: Give up after pauses of this many seconds in all; ``None``: after as many failures as the constants above.
    """

    def __init__(self, longest: Optional[float] = None) -> None:
        self.failures = 0
        """Failures in a row."""
        self.paused = 0.0
        """Seconds of pause since the last success."""
        self.proven = False
        """Whether there was a success."""
        self._longest = longest

    def succeeded(self) -> None:
        self.proven, self.failures, self.paused = True, 0, 0.0

    def failed(self) -> Optional[float]:
        """Count a failure; seconds to pause before the next try, ``None`` to give up."""
        self.failures += 1
        most = MOST_FAILURES_IN_A_ROW if self.proven else MOST_FAILURES_AT_FIRST
        if self.failures > most if self._longest is None else self.paused >= self._longest:
            return None
        pause = min(FIRST_PAUSE * 2.0 ** (self.failures - 2), LONGEST_PAUSE) if self.failures > 1 else 0.0
        self.paused += pause
        return pause
