"""Connections that have not yet sent a request: a bounded number, so that clients that send one are always accepted.

A client that connects and sends nothing, or sends slowly, takes a file descriptor of the server for as long as the server waits. So the
number of such connections is bounded, and one more ends the oldest of the address that has the most of them. No client is refused for
what others do, and a client that sends at once is accepted within milliseconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import time
from collections import Counter
from typing import Any, Optional

from .backpressure import PatientConnection

#: Connections at a time without a finished handshake.
MOST_HANDSHAKES = 64

#: Seconds that a client gets for the handshake, and those to agree on encryption before it.
HANDSHAKE_SECONDS = 10.0

#: Connections that the kernel takes while the server is busy; those beyond it are tried again after seconds.
BACKLOG = 512

#: Files that a server has to be able to open at a time.
_MOST_FILES = 4096

#: Seconds between two lines in the log on the same trouble.
_QUIET_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Handshakes:
    """The connections of a server without a finished handshake.

    Args:
        most: How many there may be at a time.
    """

    def __init__(self, most: int = MOST_HANDSHAKES) -> None:
        self._most = most
        self._addresses: dict[_Connection, str] = {}
        self._spoke: dict[str, float] = {}

    def options(self) -> dict[str, Any]:
        """What websockets' ``serve`` is given for it."""
        return {"create_connection": self._connection, "open_timeout": HANDSHAKE_SECONDS, "backlog": BACKLOG}

    def watch_loop(self) -> None:
        """Raise the limit of file descriptors, and have the running event loop log in a line that there are none left."""
        _raise_file_limit()
        asyncio.get_running_loop().set_exception_handler(self._log_trouble)

    def close(self) -> None:
        """End them all: the server stops."""
        for connection in list(self._addresses):
            connection.transport.abort()

    def begin(self, connection: _Connection) -> None:
        """A connection has come."""
        peer = connection.remote_address
        self._addresses[connection] = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if len(self._addresses) > self._most:
            counts = Counter(self._addresses.values())
            oldest = max(
                self._addresses, key=lambda each: counts[self._addresses[each]]
            )  # the first of equals: dicts keep order
            self._say(
                f"more than {self._most} connections that send nothing, most of them from {self._addresses[oldest]}: the "
                "oldest is ended"
            )
            del self._addresses[oldest]
            oldest.transport.abort()

    def end(self, connection: _Connection) -> None:
        """A connection has finished its handshake, or is closed; a second call does nothing."""
        self._addresses.pop(connection, None)

    def _connection(self, *arguments: Any, **options: Any) -> _Connection:
        connection = _Connection(*arguments, **options)
        connection.handshakes = self
        return connection

    def _log_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._say(f"no connection can be accepted ({error.strerror}); raise the limit, as 'ulimit -n 4096' does")
        else:
            loop.default_exception_handler(context)

    def _say(self, line: str) -> None:
        """Log a line, unless one of its kind was logged a short while ago."""
        kind, now = line[:20], time.monotonic()
        if now - self._spoke.get(kind, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._spoke[kind] = now
            logger.warning("%s", line)


class _Connection(PatientConnection):
    """A connection that reports when its handshake begins, and when it ends."""

    handshakes: Handshakes

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.handshakes.begin(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.handshakes.end(self)
        super().connection_lost(exc)

    async def handshake(self, *arguments: Any, **options: Any) -> None:
        try:
            await super().handshake(*arguments, **options)
        finally:
            self.handshakes.end(self)


def _raise_file_limit() -> None:
    """Let this process open more files where it may: each connection is one, and a shell's usual limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
