"""Locks for work below vlarig's home that only one process at a time may do."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..envs.errors import VlarigError


@contextmanager
def one_at_a_time(path: Path, what: str, report: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock ``path``; another process that holds it is waited for. A killed process leaves nothing held.

    The value is the lock's file descriptor; a child process that gets it holds the lock too, until it ends.

    Args:
        path: The lock's file.
        what: The work under the lock, for the message about a wait.
        report: Called with that message.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise unwritable(path.parent, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that works on {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def unwritable(folder: Path, error: OSError) -> VlarigError:
    """The error for a folder that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VlarigError(f"the disk is full at {folder}; make room, or set VLARIG_HOME to a roomier folder")
    reason = error.strerror or error
    return VlarigError(f"{folder} cannot be written: {reason}; fix that, or set VLARIG_HOME to another folder")
