"""The sim server: owns the socket, and passes what clients ask on to one simulator.

It lives as long as its standard input is open. It never decodes a simulator's answer: it passes the bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO, Union

from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from ...envs.backpressure import PatientConnection
from ...envs.errors import BadMessageError, VlarigError
from ...envs.faults import describe
from ...envs.messages import BAD_MESSAGE, ENV_ERROR, WIRE_VERSION, Failure, Hello, Start, Step, decode, encode
from ...envs.wire import MAX_MESSAGE_BYTES
from .config import MOST_SLOTS, ServerConfig
from .liveness import CLOSE_SECONDS, hang_up, keep_alive, within
from .process import SimulatorDiedError
from .requests import Simulator

#: Seconds that a client may take to introduce itself.
HELLO_TIMEOUT = 10.0

#: Clients at a time. A run has one.
MOST_CONNECTIONS = 16

#: Bytes of a client's requests that wait for an answer. A request is mostly a few kB, one with a large payload some MB.
MOST_WAITING_BYTES = 2 * MAX_MESSAGE_BYTES

#: Requests of a client that are at work or whose answers it has not read: of a client that reads nothing no more answers are kept.
MOST_UNREAD = 8


@dataclass
class _Seat:
    """A client's slot.

    Attributes:
        number: Number of the slot in the simulator.
        newest: The highest id of a request so far.
        busy: Whether a request waits for its answer.
    """

    number: int
    newest: int = -1
    busy: bool = False


class SimServer:
    """Answers some clients; each has slots of its own."""

    def __init__(self, config: ServerConfig, simulator: Simulator) -> None:
        self._config = config
        self._simulator = simulator
        self._connections = 0
        self._free: list[int] = []
        self._slot_count = 0

    async def handle(self, connection: ServerConnection) -> None:
        """One client's conversation. A malformed message ends it, and nothing else."""
        client = _Client(connection, self._simulator, self._take_slot)
        watch = asyncio.create_task(keep_alive(connection, self._config.keepalive))
        self._connections += 1
        try:
            await self._greet(connection)
            async for data in connection:
                client.take(data)
        except BadMessageError as error:
            await hang_up(connection, 1008, encode(Failure(-1, BAD_MESSAGE, str(error))))
        except ConnectionClosed:
            pass
        finally:
            watch.cancel()
            connection.transport.abort()  # or an answer that is being sent might wait for ever
            for slot in await client.leave():
                self._simulator.forget(slot)
                self._free.append(slot)
            self._connections -= 1

    def _take_slot(self) -> int:
        """The number of one of the simulator's slots that nobody uses."""
        if self._free:
            return self._free.pop()
        self._slot_count += 1
        return self._slot_count - 1

    async def _greet(self, connection: ServerConnection) -> None:
        if self._connections > MOST_CONNECTIONS:
            raise BadMessageError(f"{MOST_CONNECTIONS} clients are connected already; close one")
        _check_user(connection)
        try:
            hello = decode(await within(connection.recv(), HELLO_TIMEOUT))
        except asyncio.TimeoutError:
            raise BadMessageError(f"no Hello within {HELLO_TIMEOUT:.0f} s") from None
        if not isinstance(hello, Hello):
            raise BadMessageError(f"{type(hello).__name__} before Hello")
        if not hmac.compare_digest(hello.token.encode(), self._config.token.encode()):
            raise BadMessageError("the token is wrong")
        if hello.version != WIRE_VERSION:
            raise BadMessageError(f"wire version {hello.version}; this server speaks {WIRE_VERSION}; update the older end")
        assert self._simulator.welcome is not None
        await connection.send(encode(self._simulator.welcome))


class _Client:
    """What one client has asked for."""

    def __init__(self, connection: ServerConnection, simulator: Simulator, take_slot: Callable[[], int]) -> None:
        self._connection = connection
        self._simulator = simulator
        self._take_slot = take_slot
        self._seats: dict[int, _Seat] = {}
        self._unread = asyncio.Semaphore(MOST_UNREAD)
        self._waiting_bytes = 0
        self._running: set[asyncio.Task[None]] = set()
        self._left = False

    def take(self, data: bytes | str) -> None:
        """Begin to carry out the request in ``data``.

        Raises:
            BadMessageError: It is none, is out of turn, or exceeds a bound.
        """
        message = decode(data)
        if not isinstance(message, (Start, Step)):
            raise BadMessageError(f"{type(message).__name__} out of turn; expected Start or Step")
        if not 0 <= message.slot < MOST_SLOTS:
            raise BadMessageError(f"slot {message.slot}; slots are numbered from 0 to {MOST_SLOTS - 1}")
        if message.slot not in self._seats:
            self._seats[message.slot] = _Seat(self._take_slot())
        seat = self._seats[message.slot]
        if message.id <= seat.newest:
            raise BadMessageError(f"request {message.id} in slot {message.slot} after request {seat.newest}; ids must grow")
        if seat.busy:
            raise BadMessageError(f"request {message.id} in slot {message.slot} before the answer to request {seat.newest}")
        if self._waiting_bytes + len(data) > MOST_WAITING_BYTES:
            raise BadMessageError(f"more than {MOST_WAITING_BYTES} bytes of requests wait for answers")
        seat.newest, seat.busy = message.id, True
        self._waiting_bytes += len(data)
        task = asyncio.create_task(self._serve(seat, replace(message, slot=seat.number), len(data)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def leave(self) -> list[int]:
        """Wait until nothing of the client's is under way; returns the slots that it had."""
        self._left = True
        if self._running:
            await asyncio.wait(self._running)
        return [seat.number for seat in self._seats.values()]

    async def _serve(self, seat: _Seat, message: Union[Start, Step], size: int) -> None:
        async with self._unread:
            if self._left:
                return
            try:
                answer = await self._simulator.request(message)
            except Exception as error:  # a defect of ours, which must not leave the client waiting
                with contextlib.suppress(OSError):  # the disk is full
                    traceback.print_exc()
                answer = encode(Failure(message.id, ENV_ERROR, f"the sim server failed ({describe(error)})"))
            seat.busy = False
            self._waiting_bytes -= size
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(answer)


def _check_user(connection: ServerConnection) -> None:
    """Make sure that the client is a process of our own user: a socket without a file has no permissions.

    Raises:
        BadMessageError: It is somebody else's.
    """
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connection.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, user, _ = struct.unpack("3i", credentials)
        if user != os.getuid():
            raise BadMessageError(f"user {user} may not use the simulator of user {os.getuid()}")


async def serve(config: ServerConfig, told: TextIO) -> None:
    """Load the simulator, say to ``told`` that we are ready (or why not), and serve until standard input closes.

    What is said is one line of JSON: ``ready``, or ``error`` with what the user can mend, or ``died`` where another try may go better.
    """
    simulator = Simulator(config)
    try:
        await simulator.load()
    except VlarigError as error:
        _say(told, {"error": str(error), "traceback": error.traceback})
        return
    except SimulatorDiedError as error:
        _say(told, {"died": str(error)})
        return
    server = SimServer(config, simulator)
    async with unix_serve(
        server.handle,
        config.socket,
        create_connection=PatientConnection,
        max_size=MAX_MESSAGE_BYTES,
        compression=None,
        ping_interval=None,
        close_timeout=CLOSE_SECONDS,
    ):
        _say(told, {"ready": True})
        over = asyncio.create_task(_standard_input_closed())
        await asyncio.wait([over, simulator.given_up], return_when=asyncio.FIRST_COMPLETED)
        await simulator.end()


def _say(told: TextIO, line: dict[str, Any]) -> None:
    with told, contextlib.suppress(OSError):  # nobody listens any more
        told.write(json.dumps(line) + "\n")


async def _standard_input_closed() -> None:
    """Return when the driver, which holds the other end of our standard input, is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass


def main(config: dict[str, Any]) -> None:
    """Run the server that ``config`` (the fields of :class:`.simulation.config.ServerConfig`) describes."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is for the log
    asyncio.run(serve(ServerConfig(**config), told))
