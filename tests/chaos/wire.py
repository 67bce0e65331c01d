"""A line between driver and sim server that can be cut, stop half, crawl, and deliver messages late, twice or out of order.

It stands between the two as a Unix socket of its own in the driver's process, on a thread and a loop of its own. It passes websocket
frames on as they are, pings and pongs too, so that neither end can take it for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from chaos.blows import Blow

#: Delays of each message on a slow line, in seconds, from and to.
SLOW = (0.01, 0.5)
#: Greatest delay of a message that others may overtake, in seconds.
OVERTAKEN = 0.3


class Direction:
    """One way of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._trouble: Blow | None = None
        self._landed: Callable[[], None]
        self._until = math.inf
        self._later: set[asyncio.Task[None]] = set()
        self._rng = random.Random(0)

    def trouble(self, blow: Blow, landed: Callable[[], None]) -> None:
        """From the next frame on, for the blow's seconds, treat frames as it says; ``landed`` is called with the first."""
        self._trouble, self._landed = blow, landed
        self._until = math.inf
        self._rng = random.Random(blow.seed)

    async def run(self) -> None:
        """Pass on the handshake, then frame after frame, until either end is gone."""
        self._writer.write(await self._reader.readuntil(b"\r\n\r\n"))
        while True:
            await self._pass_on(await read_frame(self._reader))
            await self._writer.drain()

    async def _pass_on(self, frame: bytes) -> None:
        blow = self._trouble
        if blow is not None and blow.kind != "half-open" and time.monotonic() > self._until:
            blow = self._trouble = None
        is_message = frame[0] & 0x0F in (1, 2)  # no ping, pong or goodbye
        if blow is None or (not is_message and blow.kind in ("late", "double", "reorder")):
            self._writer.write(frame)
            return
        self._meet(blow)
        if blow.kind == "half-open":
            await asyncio.Event().wait()
        elif blow.kind == "slow":
            await asyncio.sleep(self._rng.uniform(*SLOW))
            self._writer.write(frame)
        elif blow.kind == "late":
            self._trouble = None
            self._send_later(frame, blow.seconds)
        elif blow.kind == "double":
            self._writer.write(frame)
            self._send_later(frame, self._rng.choice((0.0, self._rng.uniform(0, OVERTAKEN))))
        else:
            self._send_later(frame, self._rng.uniform(0, OVERTAKEN))

    def _meet(self, blow: Blow) -> None:
        if self._until == math.inf:
            self._until = time.monotonic() + blow.seconds
            self._landed()

    def _send_later(self, frame: bytes, seconds: float) -> None:
        async def send() -> None:
            await asyncio.sleep(seconds)
            self._writer.write(frame)

        task = asyncio.create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One whole websocket frame (RFC 6455, section 5.2), not unmasked."""
    head = await reader.readexactly(2)
    length, masked = head[1] & 0x7F, head[1] & 0x80
    extended = await reader.readexactly({126: 2, 127: 8}.get(length, 0))
    if extended:
        (length,) = struct.unpack(">H" if length == 126 else ">Q", extended)
    return head + extended + await reader.readexactly(length + (4 if masked else 0))


class Wire:
    """The line to one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.path = f"{server}.wire"
        self._directions: dict[str, Direction] = {}
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Listen on :attr:`path`."""
        await asyncio.start_unix_server(self._connected, self.path)

    def strike(self, blow: Blow, landed: Callable[[], None]) -> None:
        """Cut the line, or trouble one direction of it."""
        if blow.kind == "cut":
            if self._writers:
                landed()
            for writer in self._writers:
                writer.transport.abort()
        elif blow.target in self._directions:
            self._directions[blow.target].trouble(blow, landed)

    async def _connected(self, driver_reader: asyncio.StreamReader, driver_writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        except OSError:
            driver_writer.close()
            return
        self._writers = [driver_writer, server_writer]
        self._directions = {
            "requests": Direction(driver_reader, server_writer),
            "replies": Direction(server_reader, driver_writer),
        }
        ways = [asyncio.create_task(direction.run()) for direction in self._directions.values()]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for writer in (driver_writer, server_writer):
            with contextlib.suppress(OSError):
                writer.close()


class Wires:
    """The lines to all servers of a driver, by the path of the server's own socket."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._wires: dict[str, Wire] = {}
        threading.Thread(target=self._loop.run_forever, name="wires", daemon=True).start()

    async def lay(self, server: str) -> str:
        """Lay a line to the server's socket; the path to connect to instead."""
        wire = self._wires[server] = Wire(server)
        await self._on_loop(wire.open())
        return wire.path

    def find(self, server: str) -> Wire | None:
        """The line to a server, where one is laid."""
        return self._wires.get(server)

    def strike(self, wire: Wire, blow: Blow, landed: Callable[[], None]) -> None:
        """Have a blow hit a line."""
        self._loop.call_soon_threadsafe(wire.strike, blow, landed)

    async def _on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
