"""Sessions with a vla-eval model server: a connection for each env, with one observation under way in each.

Such a server keeps a state for every connection: what is left of a chunk, and a history. So an env keeps its connection through an
episode, and an episode whose connection is lost cannot go on.

A message is a msgpack map of ``type``, ``payload``, ``seq`` and ``timestamp``, with numpy arrays as maps. The form is that of
allenai/vla-evaluation-harness src/vla_eval/protocol/{messages,numpy_codec}.py as in vla-eval 0.8.0. Images are sent raw, which its
servers read as they read PNG, for a hundredth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from ...envs.background import BackgroundLoop, all_of
from ...envs.errors import BadMessageError
from ...envs.untrusted import one_line
from ..api import PolicyError, Request
from .wire import MAX_MESSAGE_BYTES, array_as_map, array_in_map, decode, encode, why_unreachable

#: Version of the protocol that is spoken here, compared when a connection begins (``PROTOCOL_VERSION`` of messages.py).
PROTOCOL_VERSION = 1

#: Kinds of messages.
HELLO, EPISODE_START, OBSERVATION, ACTION, EPISODE_END, ERROR = (
    "hello",
    "episode_start",
    "observation",
    "action",
    "episode_end",
    "error",
)

_ARRAY_KEYS = ("__ndarray__", "data", "dtype", "shape")


class Message(msgspec.Struct, frozen=True):
    """A message.

    Attributes:
        seq: Its number; an answer bears the number of the message that it answers.
    """

    kind: str = msgspec.field(name="type")
    payload: dict[str, Any]
    seq: int


def pack(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        BadMessageError: It holds a value that does not travel, or is too large.
    """
    value = {"type": message.kind, "payload": message.payload, "seq": message.seq, "timestamp": time.time()}
    data = encode(value, _pack_other, message.kind)
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"cannot send {message.kind}: {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return data


def pack_payload(payload: dict[str, Any]) -> bytes:
    """A message's content as bytes, equal for equal content. These bytes are compared, because arrays compare element by element.

    Raises:
        BadMessageError: It holds a value that does not travel.
    """
    return encode(payload, _pack_other, f"a map of {', '.join(map(str, payload))[:80]}")


def unpack(data: bytes | str) -> Message:
    """The message in ``data``; its arrays are read-only.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
    """
    value = decode(data, _unpack_map)
    if not isinstance(value, dict) or not isinstance(value.get("payload"), dict):
        raise BadMessageError("a message of vla-eval's has to be a map, and its payload too")
    try:
        return msgspec.convert(value, Message)
    except msgspec.ValidationError as error:
        raise BadMessageError(one_line(f"not a message of vla-eval's: {error}")) from None


def _pack_other(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else array_as_map(value, _ARRAY_KEYS)


def _unpack_map(value: dict[Any, Any]) -> Any:
    return array_in_map(value, _ARRAY_KEYS) if "__ndarray__" in value else value


class _Session:
    """One connection and the episode under way on it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.key = ""
        self.answered = 0
        self.latest: dict[str, Any] = {}
        self._seq = 0

    async def send(self, kind: str, payload: dict[str, Any]) -> int:
        """Send a message and return its number."""
        self._seq += 1
        try:
            data = pack(Message(kind, payload, self._seq))
        except BadMessageError as error:
            raise PolicyError(f"an observation does not travel to a vla-eval server: {error}") from None
        await self.connection.send(data)
        return self._seq


class Sessions:
    """The sessions of all envs. They begin when they are needed; a first connection is made at once, to read the server's HELLO.

    Args:
        url: Address of the server, ``ws://`` or ``wss://``.
        timeout: Seconds that an answer may take.
        connect_timeout: Seconds that a connection may take.
    """

    def __init__(self, url: str, timeout: float, connect_timeout: float) -> None:
        self._url, self._timeout, self._connect_timeout = url, timeout, connect_timeout
        self._sessions: dict[int, _Session] = {}
        self._spare: _Session | None = None
        self._hello = b""
        self.hello: dict[str, Any] = {}
        """The server's description of itself."""
        self._loop = BackgroundLoop("vlarig-vla-eval")
        try:
            self._spare = self._loop.run(self._connect())
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[Request], observations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The payload of the server's answer to each request, in order; all are under way at once.

        A request that was answered already gets the same answer, without a second message: to the server that would be a further step.

        Args:
            requests: Each of another env; their observations are not sent.
            observations: What is sent instead.
        """
        envs = [request.env for request in requests]
        if len(set(envs)) != len(envs):
            raise PolicyError(
                "a vla-eval server got two requests for one env at a time; its sessions answer one after the other"
            )
        return self._loop.run(all_of(map(self._ask, requests, observations)))

    def close(self) -> None:
        """End all connections; a second call does nothing."""
        self._loop.close(self._hang_up)

    async def _ask(self, request: Request, observation: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions.pop(request.env, None)  # back in its place once it has answered
        try:
            if request.chunk == 0:
                session = await self._begin(session, request)
            elif session is None or session.key != request.key:
                raise PolicyError(
                    f"the vla-eval server at {self._url} did not get the first request of {request.key}, or the connection was lost "
                    "since; it keeps an episode's state itself, so the episode has to restart: type the same command again"
                )
            elif request.chunk != session.answered:
                if request.chunk != session.answered - 1:
                    raise PolicyError(
                        f"the vla-eval server at {self._url} is at request {session.answered} of {request.key} and cannot answer "
                        f"request {request.chunk}; the episode has to restart"
                    )
                self._sessions[request.env] = session
                return session.latest
            seq = await session.send(OBSERVATION, observation)
            async with asyncio.timeout(self._timeout):
                answer = await self._receive(session)
        except TimeoutError:
            self._drop(session)
            raise PolicyError(
                f"the vla-eval server at {self._url} gave no answer within {self._timeout:g} s; raise the policy option timeout"
            ) from None
        except ConnectionClosed:
            raise PolicyError(
                f"the vla-eval server at {self._url} closed the connection in the middle of {request.key}; it keeps an episode's "
                "state itself, so the episode has to restart: type the same command again once the server is up"
            ) from None
        except BaseException:
            self._drop(session)
            raise
        if answer.kind != ACTION or answer.seq != seq:
            self._drop(session)
            raise PolicyError(
                f"the vla-eval server at {self._url} sent {answer.kind} number {answer.seq} where an action number {seq} was due; "
                "it has to answer each observation with one action"
            )
        session.latest, session.answered = answer.payload, request.chunk + 1
        self._sessions[request.env] = session
        return answer.payload

    async def _begin(self, session: _Session | None, request: Request) -> _Session:
        """Begin an episode in a session that is free, whatever the state of the one before."""
        if session is not None:
            try:
                await session.send(EPISODE_END, {})
            except ConnectionClosed:
                session = None
        if session is None:
            session, self._spare = self._spare, None
        if session is None or session.connection.close_code is not None:
            session = await self._connect()
        session.key, session.answered = request.key, 0
        suite, _, rest = request.key.partition("/")
        task = {"name": request.observation["instruction"], "suite": suite, "episode": rest}
        await session.send(EPISODE_START, {"task": task})
        return session

    async def _connect(self) -> _Session:
        """A new session, after the exchange of HELLOs."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await connect(
                    self._url,
                    compression=None,
                    max_size=MAX_MESSAGE_BYTES,
                    open_timeout=None,
                    close_timeout=1.0,
                    ping_interval=None,  # such a server may not answer for half a minute while its model compiles
                    proxy=None,  # an address is used as given, whatever http_proxy is
                )
                session = _Session(connection)
                try:
                    await session.send(HELLO, {"harness_version": "vlarig", "protocol_version": PROTOCOL_VERSION})
                    answer = await self._receive(session)
                except BaseException:
                    self._drop(session)
                    raise
        except (InvalidURI, ValueError):  # a ValueError for a port that is no number
            raise PolicyError(f"{self._url!r} is no address of a model server; write vla-eval:ws://HOST:PORT") from None
        except (TimeoutError, OSError, InvalidHandshake, EOFError, ConnectionClosed) as error:
            reason = why_unreachable(error, self._connect_timeout)
            raise PolicyError(
                f"no vla-eval model server can be reached at {self._url} ({reason}); start it with 'vla-eval serve', or mend "
                "the address"
            ) from None
        version = answer.payload.get("protocol_version")
        if answer.kind != HELLO or type(version) is not int or version != PROTOCOL_VERSION:
            self._drop(session)
            raise PolicyError(
                f"the server at {self._url} speaks version {str(version)[:20]} of vla-eval's protocol and we speak {PROTOCOL_VERSION}; "
                "install a vla-eval of that version there"
            )
        packed = pack_payload(answer.payload)
        if self._hello not in (b"", packed):
            self._drop(session)
            raise PolicyError(f"the server at {self._url} now announces something else than before; begin a new run for it")
        self.hello, self._hello = answer.payload, packed
        return session

    async def _receive(self, session: _Session) -> Message:
        try:
            message = unpack(await session.connection.recv())
        except BadMessageError as error:
            self._drop(session)
            raise PolicyError(f"the server at {self._url} does not speak vla-eval's protocol ({error})") from None
        if message.kind == ERROR:
            lines = str(message.payload.get("error", message.payload)).strip().splitlines() or ["no reason given"]
            self._drop(session)
            raise PolicyError(f"the vla-eval server at {self._url} failed: {one_line(lines[-1])}; its log says more")
        return message

    @staticmethod
    def _drop(session: _Session | None) -> None:
        if session is not None:
            session.connection.transport.abort()

    async def _hang_up(self) -> None:
        sessions = [*self._sessions.values(), *([self._spare] if self._spare else [])]
        await asyncio.gather(*(session.connection.close() for session in sessions), return_exceptions=True)
        self._sessions.clear()
        self._spare = None
