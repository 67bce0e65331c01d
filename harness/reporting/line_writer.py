"""Lines written by a thread of their own, so that no caller waits for a disk, or for a slow reader of a pipe."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path


class LogFile:
    """A file that lines are appended to, opened with the first line.

    Each line is handed to the operating system at once, so it survives the death of this process. A line that was cut short, by a kill
    or a full disk, is ended before the next.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def write(self, line: bytes) -> None:
        """Append a line."""
        try:
            if self._file is None:
                self._file = self._open()
            _write_all(self._file, line)
        except OSError:
            self.close()  # the next line opens it again, and ends the one that was cut short
            raise

    def close(self) -> None:
        """Close the file; a further line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = False
        if self._path.is_file() and (size := self._path.stat().st_size):
            with self._path.open("rb") as file:
                file.seek(size - 1)
                torn = file.read(1) != b"\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if torn:
            os.write(file, b"\n")
        return file


class Pipe:
    """A file descriptor of another owner, such as standard output; it is written line by line, at its reader's speed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        """Write a line, and wait until it is taken."""
        os.set_blocking(self._descriptor, True)
        _write_all(self._descriptor, line)

    def close(self) -> None:
        """Do nothing: its owner closes it."""


class LineWriter:
    """Hands lines to a target from a thread of its own. Use :meth:`close` at the end.

    Args:
        target: Where they go.
        failed: Called, in that thread, with the first line's error. Further lines are tried, and lost without a call.
    """

    def __init__(self, target: LogFile | Pipe, failed: Callable[[OSError], None]) -> None:
        self._target = target
        self._failed = failed
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, name="lines", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line, without its line end."""
        self._lines.put(line)

    def close(self, patience: float | None = None) -> None:
        """Wait, up to ``patience`` seconds, until all lines are written."""
        self._lines.put(None)
        self._thread.join(patience)

    def _write_lines(self) -> None:
        reported = False
        while (line := self._lines.get()) is not None:
            try:
                self._target.write(line.encode() + b"\n")
            except OSError as error:
                if not reported:
                    self._failed(error)
                reported = True
        self._target.close()


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
