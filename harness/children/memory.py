"""A simulator's share of the machine's memory: when it should be replaced before it takes more, which would be its end."""

from __future__ import annotations

from .launcher import resident_bytes

#: How much of the room between what a simulator takes once its envs are at work and what it may take is for what it forgets to
#: give back. When so much is used up it is replaced where an episode begins, which costs no episode. The rest is for what one episode
#: takes beyond others, and for what a leak adds until an episode begins.
ROOM_FOR_LEAKS = 0.5

_GB = 10**9


class MemoryShare:
    """What one simulator process takes of its share.

    Args:
        pid: The process.
        share: Most bytes that it may take; no bound when ``None``.
    """

    def __init__(self, pid: int, share: int | None) -> None:
        self._pid = pid
        self._share = share
        self._begun: set[int] = set()
        self._settled: int | None = None

    def leak(self, env: int) -> str | None:
        """Why the process should be replaced before an episode begins in ``env``, in words; ``None`` if it should not.

        Each env takes memory when it begins its first episode in the process. What the process has when a env begins its second
        is what it needs, and no fresh process would do with less; growth is counted from there. So every process carries some
        episodes to their ends, however small the share is.
        """
        if self._share is None:
            return None
        if env not in self._begun:
            self._begun.add(env)
            return None
        resident = resident_bytes(self._pid)
        if self._settled is None:
            self._settled = resident
        if resident <= self._settled + ROOM_FOR_LEAKS * (self._share - self._settled):
            return None
        return f"grew from {self._settled / _GB:.1f} to {resident / _GB:.1f} GB, its share of the memory is {self._share / _GB:.1f} GB"
