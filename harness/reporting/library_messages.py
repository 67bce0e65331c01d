"""Log messages of libraries during a sweep go to a file of the run, not into the user's display."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
from collections.abc import Iterator
from pathlib import Path

from ...envs.messages import ENV_ERROR
from ...results.records import Attempt
from ..printable import PrintableFormatter

LIBRARY_LOG = "driver.log"

#: Largest size of such a file; one older one is kept.
MOST_BYTES = 4 * 2**20


def log_of(run: Path, attempt: Attempt) -> Path:
    """The file of a run that says most about why an attempt failed.

    That is its worker's log, where the worker ran on this machine; an adapter's exception is in the driver's log, with its traceback.
    """
    worker = run / "logs" / f"{attempt.key.split('/')[0]}-{attempt.worker}.log"
    return run / "logs" / LIBRARY_LOG if attempt.kind == ENV_ERROR or not worker.exists() else worker


class _QuietFile(logging.handlers.RotatingFileHandler):
    """A log file whose errors are ignored: the run's own log reports the same disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (a method of logging's)
        pass


@contextlib.contextmanager
def library_messages(path: Path) -> Iterator[None]:
    """Write warnings and errors of Python's ``logging`` to a file for as long as the context lasts.

    Other handlers of ``logging`` still get them. A thread writes, so that no caller waits for the disk.

    Args:
        path: The file; made with the first message.
    """
    file = _QuietFile(path, maxBytes=MOST_BYTES, backupCount=1, delay=True, encoding="utf-8")
    file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
