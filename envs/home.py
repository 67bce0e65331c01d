"""The folder of everything that vlarig keeps beside runs, and work below it: runtimes, graphics drivers, data files.

Locks are for what only one process at a time may do; folders appear whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import VlarigError


def home() -> Path:
    """The folder of everything that vlarig keeps: ``$VLARIG_HOME``, or ``vlarig`` in the user's cache."""
    if chosen := os.environ.get("VLARIG_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "vlarig"
    except RuntimeError:
        raise VlarigError("there is no home folder (HOME is unset); set HOME, or VLARIG_HOME to a folder for vlarig") from None


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
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VlarigError(f"the disk is full at {folder}; make room, or set VLARIG_HOME to a roomier folder")
    reason = error.strerror or error
    return VlarigError(f"{folder} cannot be written: {reason}; fix that, or set VLARIG_HOME to another folder")


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of ``folder`` when the context ends without an error, and is deleted otherwise.

    The next process deletes the scratch folder of a killed one. Use it under a lock.
    """
    scratch = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        scratch.replace(folder)
    except OSError as error:
        raise unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` to write to: at the end it replaces ``path``; after an error it is deleted."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
