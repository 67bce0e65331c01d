"""A simulator's share of the machine's memory: when it has grown too large, and when it should be replaced before it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

#: How much of the room between what a simulator takes once its slots are at work and what it may take is for what it forgets to
#: give back. When so much is used up it is replaced where an episode begins, which costs no episode. The rest is for what one episode
#: takes beyond others, and for what a leak adds until an episode begins.
ROOM_FOR_LEAKS = 0.5

_GB = 10**9


def resident_bytes(pid: int) -> int:
    """Memory of a process that is not paged out; 0 where the system does not tell (it is not Linux, or the process is gone)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class MemoryShare:
    """What one simulator process takes of its share.

    Args:
        pid: The process.
        share: Most bytes that it may take; no bound when ``None``.
    """

    def __init__(self, pid: int, share: Optional[int]) -> None:
        self._pid = pid
        self._share = share
        self._begun: set[int] = set()
        self._settled: Optional[int] = None

    def excess(self) -> Optional[str]:
        """How the process broke its bound, in words; ``None`` if it did not."""
        if self._share is None:
            return None
        resident = resident_bytes(self._pid)
        if resident <= self._share:
            return None
        return (
            f"grew to {resident / _GB:.1f} GB, its share of the memory is {self._share / _GB:.1f} GB; "
            "fewer slots or workers make shares larger"
        )

    def leak(self, slot: int) -> Optional[str]:
        """Why the process should be replaced before an episode begins in ``slot``, in words; ``None`` if it should not.

        Each slot takes memory when it begins its first episode in the process. What the process has when a slot begins its second
        is what it needs, and no fresh process would do with less; growth is counted from there. So every process carries some
        episodes to their ends, however small the share is.
        """
        if self._share is None:
            return None
        if slot not in self._begun:
            self._begun.add(slot)
            return None
        resident = resident_bytes(self._pid)
        if self._settled is None:
            self._settled = resident
        if resident <= self._settled + ROOM_FOR_LEAKS * (self._share - self._settled):
            return None
        return f"grew from {self._settled / _GB:.1f} to {resident / _GB:.1f} GB, its share of the memory is {self._share / _GB:.1f} GB"
