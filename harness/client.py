"""The engine's end of a connection to a sim server: requests of many slots, answered in any order."""

from __future__ import annotations

import asyncio
import itertools
from typing import Self

import numpy as np
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.embodiments import Embodiment
from ..envs.errors import BadMessageError, VlarigError
from ..envs.messages import (
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
    decode,
    encode,
)
from ..envs.wire import MAX_MESSAGE_BYTES


class SimulatorFault(Exception):
    """A request that the simulator did not carry out; ``kind`` is one of the failures of :mod:`vlarig.envs.messages`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ServerGone(Exception):
    """The connection to the sim server ended; what ran there is lost."""


class SimClient:
    """A greeted connection."""

    def __init__(self, connection: ClientConnection, embodiment: Embodiment) -> None:
        self._connection = connection
        self.embodiment = embodiment
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._gone: str | None = None
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, socket_path: str, token: str) -> Self:
        """Connect to the server's Unix socket and shake hands.

        Raises:
            VlarigError: The server refuses, or is none of ours.
            ServerGone: Nobody listens there any more.
        """
        try:
            connection = await unix_connect(
                socket_path, max_size=MAX_MESSAGE_BYTES, compression=None, ping_interval=20, ping_timeout=60, close_timeout=2
            )
            await connection.send(encode(Hello(WIRE_VERSION, token)))
            welcome = decode(await connection.recv())
        except (OSError, ConnectionClosed) as error:
            raise ServerGone(str(error)) from None
        except (BadMessageError, InvalidHandshake) as error:
            raise VlarigError(f"no sim server of ours answers on {socket_path} ({error})") from None
        if isinstance(welcome, Failure):
            raise VlarigError(f"the sim server refused the connection: {welcome.message}")
        if not isinstance(welcome, Welcome):
            raise VlarigError(f"the sim server answered Hello with {type(welcome).__name__}, expected Welcome")
        return cls(connection, welcome.embodiment)

    async def start(self, slot: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in a slot.

        Raises:
            SimulatorFault: The simulator could not.
            ServerGone: The connection ended.
            VlarigError: The env refused in one sentence.
        """
        answer = await self._ask(Start(next(self._ids), slot, episode, needs))
        assert isinstance(answer, Started)
        return answer.snapshot

    async def step(self, slot: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in a slot. Raises like :meth:`start`."""
        answer = await self._ask(Step(next(self._ids), slot, actions))
        assert isinstance(answer, Stepped)
        return answer.result

    async def close(self) -> None:
        """End the connection."""
        self._listener.cancel()
        await self._connection.close()

    async def _ask(self, message: Start | Step) -> Message:
        if self._gone is not None:
            raise ServerGone(self._gone)
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[message.id] = answered
        try:
            await self._connection.send(encode(message))
            answer = await answered
        except ConnectionClosed as error:
            raise ServerGone(str(error)) from None
        finally:
            self._waiting.pop(message.id, None)
        if isinstance(answer, Failure):
            if answer.kind == REFUSED:
                raise VlarigError(answer.message)
            raise SimulatorFault(answer.kind, answer.message)
        return answer

    async def _listen(self) -> None:
        """Hand each answer to who waits for it, until the connection ends; then tell everybody."""
        try:
            async for data in self._connection:
                answer = decode(data)
                if not isinstance(answer, (Started, Stepped, Failure)):
                    raise BadMessageError(f"{type(answer).__name__} is no answer")
                waiting = self._waiting.get(answer.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
                elif isinstance(answer, Failure) and answer.id == -1:
                    raise BadMessageError(f"the server could not read a message of ours: {answer.message}")
            reason = "the sim server closed the connection"
        except (BadMessageError, ConnectionClosed) as error:
            reason = f"the connection to the sim server broke ({error})"
        self._gone = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ServerGone(reason))
        await self._connection.close()
