"""A worker's log: the beginning and the end of its output."""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes of the beginning, and of the end, that a log keeps. It may be this much longer before its middle is left out.
KEPT_BYTES = 2 * 2**20

LEFT_OUT = b"\n[the middle of this log is left out; its first and last %d MiB are kept]\n" % (KEPT_BYTES // 2**20)


class WorkerLog:
    """A log file of bounded size.

    Args:
        path: The file; its present content stays, and counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make sure that it can be written.

        Raises:
            OSError: It cannot.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab"):
            pass

    def add(self, data: bytes) -> None:
        """Append to the file, and leave out its middle where it has become too long."""
        with self._path.open("a+b") as file:
            file.write(data)
            file.flush()
            if file.tell() > 3 * KEPT_BYTES:
                file.seek(-KEPT_BYTES, os.SEEK_END)
                last = file.read()
                file.truncate(KEPT_BYTES)
                file.write(LEFT_OUT + last)
