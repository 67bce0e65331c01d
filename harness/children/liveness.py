"""Bounded waits, and connections whose other end may be stopped, half open or closed.

Every wait for another process is bounded, and no wait counts time in which this process itself was stopped (by a signal, a debugger, a
suspended machine). So time is counted in ticks of this process's event loop: a stop of any length counts as one tick at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
from collections.abc import Awaitable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

T = TypeVar("T")

#: Seconds between two checks of a wait.
TICK = 0.25

#: Seconds that the other end of a connection gets to close it.
CLOSE_SECONDS = 2.0

#: Seconds between two checks whether a process has ended.
_POLL_SECONDS = 0.01


class Keepalive(NamedTuple):
    """How a connection's other end is watched, in seconds.

    Attributes:
        interval: Between two pings.
        patience: How long a ping may stay without an answer, before the connection counts as broken.
    """

    interval: float
    patience: float


#: How the connection between a driver and an env server is watched, at both ends.
KEEPALIVE = Keepalive(interval=20.0, patience=60.0)


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """The result of ``awaitable``, which may take ``seconds`` of this process's running time; it is cancelled where it takes longer.

    Raises:
        asyncio.TimeoutError: It took longer.
    """
    task = asyncio.ensure_future(awaitable)
    tick = min(TICK, seconds)
    try:
        for _ in range(math.ceil(seconds / tick)):
            done, _ = await asyncio.wait({task}, timeout=tick)
            if done:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=TICK)
        if task.done() and not task.cancelled():
            task.exception()  # retrieved, also where this wait was cancelled as it came


async def keep_alive(connection: Connection, keepalive: Keepalive) -> None:
    """Ping the other end for as long as it answers, then break the connection.

    It replaces the keepalive of websockets, whose ping first waits, without bound, until the other end has read what was sent before:
    it never notices a process that is stopped and reads nothing.
    """
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.sleep(keepalive.interval)
            try:
                await within(_ping(connection), keepalive.patience)
            except TimeoutError:
                connection.transport.abort()
                return


async def hang_up(connection: Connection, code: int = 1000, last_words: bytes | None = None) -> None:
    """Close a connection, also one whose other end does not read."""
    with contextlib.suppress(asyncio.TimeoutError, ConnectionClosed):
        await within(_say_goodbye(connection, code, last_words), CLOSE_SECONDS)
    connection.transport.abort()


async def _ping(connection: Connection) -> None:
    await (await connection.ping())


async def _say_goodbye(connection: Connection, code: int, last_words: bytes | None) -> None:
    if last_words is not None:
        await connection.send(last_words)
    await connection.close(code)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; the first that raises ends the others, and its exception is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (Linux only)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


async def exits(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ends within ``seconds``, counted in ticks of this event loop."""
    for _ in range(math.ceil(seconds / _POLL_SECONDS)):
        if process.poll() is not None:
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False
