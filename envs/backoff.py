"""When to try again what keeps failing, and when to give it up: the same rule for processes that die and for machines that are away."""

from __future__ import annotations

from typing import Optional

#: Failures in a row after which is given up what never worked: it probably cannot.
MOST_FAILURES_AT_FIRST = 5

#: Failures in a row after which is given up what did work. With the pauses it is tried for five minutes: the machine may be out of
#: memory, or somebody may be killing processes.
MOST_FAILURES_IN_A_ROW = 12

#: Seconds of pause after the second failure in a row, doubled with every further one, and the longest. After the first there is none.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

#: Seconds for which a machine that is away is looked for: it may be started anew, or its network mended.
LONGEST_ABSENCE = 3600.0


class Backoff:
    """Counts failures in a row, and says how long to pause before the next try.

    Args:
        longest: Give up after pauses of so many seconds in all; ``None``: after so many failures as the constants above say.
    """

    def __init__(self, longest: Optional[float] = None) -> None:
        self.failures = 0
        """Failures in a row."""
        self.paused = 0.0
        """Seconds of pause since the last success."""
        self.proven = False
        """Whether it ever worked."""
        self._longest = longest

    def succeeded(self) -> None:
        """Take note that it worked."""
        self.proven, self.failures, self.paused = True, 0, 0.0

    def failed(self) -> Optional[float]:
        """Take note of a failure; seconds to pause before the next try, ``None`` where it is to be given up."""
        self.failures += 1
        most = MOST_FAILURES_IN_A_ROW if self.proven else MOST_FAILURES_AT_FIRST
        if self.failures > most if self._longest is None else self.paused >= self._longest:
            return None
        pause = min(FIRST_PAUSE * 2.0 ** (self.failures - 2), LONGEST_PAUSE) if self.failures > 1 else 0.0
        self.paused += pause
        return pause
