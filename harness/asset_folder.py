"""Folders of assets are made by one process at a time, and appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..envs.errors import VlarigError


@contextmanager
def one_at_a_time(path: Path, what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock ``path``; another process that holds it is waited for. A killed process leaves nothing held.

    Args:
        path: The lock's file.
        what: What is worked on, for the line that says whom one waits for.
        report: Gets that line.

    Raises:
        VlarigError: The lock cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that works on {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of ``folder`` when the context ends well, and vanishes otherwise.

    What a killed process left of its scratch folder is deleted by the next one. To be used under a lock.

    Raises:
        VlarigError: The disk is full, or something cannot be written.
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
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> VlarigError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VlarigError(f"the disk is full at {folder}; make room, or set VLARIG_HOME to a roomier folder")
    reason = error.strerror or error
    return VlarigError(f"{folder} cannot be written: {reason}; mend that, or set VLARIG_HOME to another folder")
