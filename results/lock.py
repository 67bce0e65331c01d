"""The lock that prevents a second driver from writing the same run."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ..envs.errors import VlarigError
from ..envs.untrusted import one_line

LOCK_NAME = "lock"
_LONGEST_HOLDER = 300  # bytes
_PATIENCE = 0.5  # seconds; longer than a look by `lock_holder` lasts


class RunLock:
    """Exclusive right to write a run, held until :meth:`release` or the end of the process, for whatever reason.

    The operating system keeps the lock (``flock`` on ``<run>/lock``), so a killed driver leaves no stale lock. The
    file itself stays; it names the process that holds the lock, or held it last. A forked child does not inherit the lock: it would
    hold it after the driver's death too.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / LOCK_NAME
        self._file = -1
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.register_at_fork(after_in_child=self.release)
            self._take()
        except BlockingIOError:
            holder = _written_holder(self._file)
            self.release()
            raise VlarigError(
                f"the run {run_dir} is being written by {holder}; wait until it ends, stop it, or give another --run"
            ) from None
        except OSError as error:
            self.release()
            raise VlarigError(
                f"{path} cannot be written: {error}; check that the folder is writable, with space left"
            ) from error

    def _take(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def lock_holder(run_dir: Path) -> str | None:
    """The process that is writing the run (``process 12 on host``), or ``None``. The run is not changed."""
    path = run_dir / LOCK_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_holder(file)
    finally:
        os.close(file)
    return None


def _written_holder(file: int) -> str:
    """What the holder wrote about itself."""
    return one_line(os.pread(file, _LONGEST_HOLDER, 0).decode(errors="replace")) or "another process"
