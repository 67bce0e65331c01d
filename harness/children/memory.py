"""A simulator's share of the machine's memory: when to replace its process before it exceeds the share and is killed."""

from __future__ import annotations

from .launcher import resident_bytes

#: Part of the room for leaks; the room is the share less the memory of a simulator whose envs all run. When this part is used up, the
#: process is replaced where an episode begins, which costs no episode. The rest is for an episode that needs more memory than others,
#: and for what a leak adds until an episode begins.
ROOM_FOR_LEAKS = 0.5

_GB = 10**9


class MemoryShare:
    """One simulator process's use of its share.

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

        Each env takes memory when it begins its first episode in the process. The memory at the first second episode of an env is what
        a fresh process needs too; growth is counted from there. So every process finishes some episodes, also with a small share.
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
