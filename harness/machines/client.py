"""The engine's end of a connection to a sim server: requests of many slots, answered in any order."""

from __future__ import annotations

import asyncio
import itertools
from typing import Self, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ...envs.api import ChunkResult, Episode, Needs, Snapshot
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, VlarigError
from ...envs.messages import (
    ENV_ERROR,
    REFUSED,
    WIRE_VERSION,
    Failure,
    Hello,
    Message,
    Start,
    Started,
    Step,
    Stepped,
    Welcome,
    answered_id,
    decode,
    encode,
)
from ...envs.wire import MAX_MESSAGE_BYTES
from ..simulation.config import MOST_SLOTS
from ..simulation.liveness import CLOSE_SECONDS, KEEPALIVE, Keepalive, hang_up, keep_alive

T = TypeVar("T")


class SimulatorFault(Exception):
    """A request that the simulator did not carry out; ``kind`` is one of the failures of :mod:`vlarig.envs.messages`.

    ``traceback`` is the adapter's, as text for a log; empty where it raised nothing.
    """

    def __init__(self, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.traceback = traceback


class ServerGone(Exception):
    """The connection to the sim server ended; what ran there is lost."""


class SimClient:
    """A greeted connection. A slot's requests are sent one after the other, each when the one before was answered."""

    def __init__(self, connection: ClientConnection, embodiment: Embodiment, keepalive: Keepalive) -> None:
        self._connection = connection
        self.embodiment = embodiment
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Message | None]] = {}
        self._newest: dict[int, asyncio.Future[Message | None]] = {}
        self._gone: str | None = None
        self._listener = asyncio.create_task(self._listen())
        self._watcher = asyncio.create_task(keep_alive(connection, keepalive))

    @classmethod
    async def connect(cls, socket_path: str, token: str, keepalive: Keepalive = KEEPALIVE) -> Self:
        """Connect to the server's Unix socket and shake hands. Bound it, and raises, like :func:`reach`."""
        connection, welcome = await reach(socket_path, token)
        return cls(connection, welcome.embodiment, keepalive)

    async def start(self, slot: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in a slot.

        Raises:
            SimulatorFault: The simulator could not.
            ServerGone: The connection ended.
            VlarigError: The env refused in one sentence.
        """
        return (await self._ask(Start(next(self._ids), slot, episode, needs), Started)).snapshot

    async def step(self, slot: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in a slot. Raises like :meth:`start`."""
        return (await self._ask(Step(next(self._ids), slot, actions), Stepped)).result

    async def close(self) -> None:
        """End the connection."""
        self._watcher.cancel()
        await hang_up(self._connection)
        await self._listener

    async def _ask(self, message: Start | Step, expected: type[T]) -> T:
        """The answer to a request. One that its caller gave up waiting for is taken before the slot's next request is sent."""
        if message.slot >= MOST_SLOTS:
            raise VlarigError(f"slot {message.slot} of a worker, which has at most {MOST_SLOTS}; take more workers")
        before = self._newest.get(message.slot)
        if before is not None and not before.done():
            await asyncio.wait([before])
        if self._gone is not None:
            raise ServerGone(self._gone)
        data = encode(message)
        answered = self._waiting[message.id] = self._newest[message.slot] = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(data)
            answer = await asyncio.shield(answered)
        except ConnectionClosed as error:
            raise ServerGone(str(error)) from None
        if answer is None:
            raise ServerGone(self._gone)
        if isinstance(answer, Failure):
            if answer.kind == REFUSED:
                raise VlarigError(answer.message)
            raise SimulatorFault(answer.kind, answer.message, answer.traceback)
        if not isinstance(answer, expected):
            raise SimulatorFault(ENV_ERROR, f"the simulator answered {type(message).__name__} with {type(answer).__name__}")
        return answer

    async def _listen(self) -> None:
        """Hand each answer to who waits for it, until the connection ends; then tell everybody.

        An answer that nobody waits for is ignored: it came twice, or was never asked for.
        """
        try:
            async for data in self._connection:
                answer = _read_answer(data)
                waiting = self._waiting.pop(answer.id, None)
                if waiting is not None:
                    waiting.set_result(answer)
                elif isinstance(answer, Failure) and answer.id == -1:
                    raise BadMessageError(f"it cannot read a message of ours: {answer.message}")
            self._gone = "the sim server closed the connection"
        except Exception as error:  # ConnectionClosed and BadMessageError; after any other too nobody may be left waiting
            self._gone = f"the connection to the sim server broke ({error})"
        for waiting in self._waiting.values():
            waiting.set_result(None)
        self._waiting.clear()
        self._connection.transport.abort()


async def reach(socket_path: str, token: str) -> tuple[ClientConnection, Welcome]:
    """Connect to a sim server's Unix socket and shake hands. That may take for ever: bound it.

    Raises:
        VlarigError: The server refuses.
        ServerGone: Nobody listens there any more, or nobody who speaks as a sim server does.
    """
    try:
        connection = await unix_connect(
            socket_path, max_size=MAX_MESSAGE_BYTES, compression=None, ping_interval=None, close_timeout=CLOSE_SECONDS
        )
    except (OSError, InvalidHandshake) as error:
        raise ServerGone(str(error)) from None
    try:
        await connection.send(encode(Hello(WIRE_VERSION, token)))
        return connection, await receive_welcome(connection)
    except ConnectionClosed as error:
        raise ServerGone(str(error)) from None
    except BaseException:
        connection.transport.abort()
        raise


async def receive_welcome(connection: ClientConnection) -> Welcome:
    """What a sim server's simulator moves. Raises like :func:`reach`."""
    try:
        welcome = decode(await connection.recv())
    except (BadMessageError, ConnectionClosed) as error:
        raise ServerGone(str(error)) from None
    if isinstance(welcome, Failure):
        raise VlarigError(f"the sim server refused the connection: {welcome.message}")
    if not isinstance(welcome, Welcome):
        raise ServerGone(f"it answered Hello with {type(welcome).__name__}")
    return welcome


def _read_answer(data: bytes | str) -> Started | Stepped | Failure:
    """The answer in ``data``; one that is broken behind its beginning becomes its request's failure.

    Raises:
        BadMessageError: It is no answer to anything.
    """
    try:
        answer = decode(data)
    except BadMessageError as error:
        number = answered_id(data) if isinstance(data, bytes) else None
        if number is None:
            raise
        return Failure(number, ENV_ERROR, f"the env's answer cannot be read ({error})")
    if not isinstance(answer, (Started, Stepped, Failure)):
        raise BadMessageError(f"{type(answer).__name__} is no answer")
    return answer
