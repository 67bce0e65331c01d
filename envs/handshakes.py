"""Connections that have not yet said what they want: a bounded number, so that those who speak always get in.

Whoever connects and says nothing, or is slow to, takes a file descriptor of the server's for as long as it is waited for. So the
number of such connections is bounded, and one more ends the oldest of the address that has the most of them. Nobody is refused for
what others do, and a client that speaks at once is let in within milliseconds.
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

#: Connections at a time that have not shaken hands.
MOST_HANDSHAKES = 64

#: Seconds that a client gets to shake hands, and those to agree on encryption before it.
HANDSHAKE_SECONDS = 10.0

#: Connections that the kernel takes while the server is busy; those beyond it are tried again after seconds.
BACKLOG = 512

#: Files that a server wants to be able to open at a time.
_MOST_FILES = 4096

#: Seconds between two lines in the log on the same trouble.
_QUIET_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Handshakes:
    """The connections of a server that have not shaken hands.

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
        """Have the running event loop say in a line that there are no file descriptors left, and first take all that may be had."""
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
                f"more than {self._most} connections that say nothing, most of them from {self._addresses[oldest]}: the oldest is ended"
            )
            del self._addresses[oldest]
            oldest.transport.abort()

    def end(self, connection: _Connection) -> None:
        """A connection has shaken hands, or is gone; a second call does nothing."""
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
    """A connection that says when it begins to shake hands, and when it has."""

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
