"""The logs of a sweep: events go to the run's log and to programs that listen, messages to the user's console.

What libraries log goes to a file of the run, not into the user's display. Lines are written by threads of their own, so that no caller
waits for a disk, or for a slow reader of a pipe.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Literal, Self

import msgspec
from rich.console import Console
from rich.text import Text

from ...envs.messages import ENV_ERROR
from ...results.records import Attempt
from .events import LOG_NAME, Event, Note, line_of

#: Seconds that the end of a sweep waits for a log whose disk does not answer.
LOG_PATIENCE = 10.0

#: The file of a run with what libraries log.
LIBRARY_LOG = "driver.log"

#: Largest size of that file; one older one is kept.
MOST_BYTES = 4 * 2**20


class EventLog:
    """Writes events to the run's log and to a stream, and messages to the console. Thread-safe. Use it as a context manager.

    Args:
        console: Gets messages for the user.
        stream: File descriptor that every event is written to as it happens, a line each; no stream when ``None``.
    """

    def __init__(self, console: Console, stream: int | None = None) -> None:
        self.console = console
        self.run: Path | None = None
        """Folder of the run, once there is one."""
        self.reader_left = False
        """Whether the reader of the stream has closed it."""
        self._began = time.monotonic()
        self._session = 0
        self._early: list[Event] = []
        self._log: LineWriter | None = None
        self._on_reader_left: Callable[[], None] | None = None
        self._stream = None if stream is None else LineWriter(Pipe(stream), self._lose_reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything is written, for the log's disk :data:`LOG_PATIENCE` seconds at most."""
        if self._log is not None:
            self._log.close(LOG_PATIENCE)
        if self._stream is not None:
            self._stream.close()

    def open_log(self, run: Path, session: int) -> None:
        """Write events to the run's log from now on, after those that came before."""
        self.run, self._session = run, session
        logs = run / "logs"
        self._log = LineWriter(LogFile(logs / LOG_NAME), lambda error: self._lose_log(logs, error))
        early, self._early = self._early, []
        for event in early:
            self._log.write(line_of(msgspec.structs.replace(event, session=session)))

    def write(self, event: Event) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = msgspec.structs.replace(
            event, time=now, seconds=round(time.monotonic() - self._began, 3), session=self._session
        )
        if self._log is None:
            self._early.append(event)
        line = line_of(event)
        for writer in (self._log, self._stream):
            if writer is not None:
                writer.write(line)

    def note(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Write a message as an event, without showing it."""
        self.write(Note(level=level, text=text))

    def say(self, text: str, style: str | None = None) -> None:
        """Show the user a message, and write it as an event."""
        self.console.print(Text(text), style=style, soft_wrap=True)
        self.note(text)

    def warn(self, text: str) -> None:
        """Show the user a warning, and write it as an event."""
        self.console.print(Text(text), style="yellow", soft_wrap=True)
        self.note(text, "warning")

    def when_reader_leaves(self, act: Callable[[], None]) -> None:
        """Call ``act``, from some thread, when the stream's reader closes it; at once where it is closed already."""
        self._on_reader_left = act
        if self.reader_left:
            act()

    def _lose_reader(self, error: OSError) -> None:
        self.reader_left = True
        if self._on_reader_left is not None:
            self._on_reader_left()

    def _lose_log(self, logs: Path, error: OSError) -> None:
        self.warn(f"the log {logs / LOG_NAME} cannot be written ({error.strerror or error}); the sweep goes on without it")


class LogFile:
    """A file that lines are appended to, opened with the first line.

    Each line is handed to the operating system at once, so it survives the death of this process. A line that was cut short, by a kill
    or a full disk, is ended before the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def write(self, line: bytes) -> None:
        try:
            self._file = self._file or self._open()
            _write_all(self._file.fileno(), line)
        except OSError:
            self.close()  # the next line opens it again, and ends the one that was cut short
            raise

    def close(self) -> None:
        """Close the file; a further line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+b", buffering=0)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
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


@contextlib.contextmanager
def library_messages(path: Path) -> Iterator[None]:
    """Write warnings and errors of Python's ``logging`` to a file for as long as the context lasts.

    The first message makes the file. Other handlers of ``logging`` still get them. A thread writes, so that no caller waits for the
    disk.
    """
    file = _QuietFile(path, maxBytes=MOST_BYTES, backupCount=1, delay=True, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    messages: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(messages)
    handler.setLevel(logging.WARNING)
    listener = logging.handlers.QueueListener(messages, file)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    listener.start()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        listener.stop()
        file.close()


class _QuietFile(logging.handlers.RotatingFileHandler):
    """A log file whose errors are ignored: the run's own log reports the same disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (a method of logging's)
        pass


def log_of(run: Path, attempt: Attempt) -> Path:
    """The file of a run that says most about why an attempt failed.

    That is its worker's log, where the worker ran on this machine; an adapter's exception is in the driver's log, with its traceback.
    """
    worker = run / "logs" / f"{attempt.key.split('/')[0]}-{attempt.worker}.log"
    return run / "logs" / LIBRARY_LOG if attempt.kind == ENV_ERROR or not worker.exists() else worker
