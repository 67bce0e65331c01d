"""Connections to an openpi server: several, with one request under way in each, so that the server can batch."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from ...envs.access import authorization
from ...envs.background import BackgroundLoop
from ...envs.errors import BadMessageError
from ...envs.tls import handshake_failure
from ...envs.untrusted import one_line
from ..api import PolicyError, PolicyLost
from .announcement import LOST
from .msgpack_arrays import MAX_MESSAGE_BYTES
from .openpi_wire import unpack

#: Codes with which a server ends a connection because of what it was sent.
_REFUSALS = (1008, 1009)


class ServerLostError(PolicyError):
    """The server cannot be reached, or does not answer; its policy did nothing wrong."""


class ConnectionPool:
    """Exchanges messages for a caller that waits. Connections are made when they are needed; the first one at once.

    Args:
        url: Address of the server, ``ws://`` or ``wss://``.
        token: Secret to show; empty for none.
        most: Most connections.
        timeout: Seconds that an answer may take.
        connect_timeout: Seconds that a connection may take.
        encryption: How to check the certificate of a server at ``wss://``.
    """

    def __init__(
        self,
        url: str,
        token: str,
        most: int,
        timeout: float,
        connect_timeout: float,
        encryption: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._token, self._most = url, token, most
        self._encryption = encryption
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._idle: list[ClientConnection] = []
        self._greeting: bytes | None = None
        self._loop = BackgroundLoop("vlarig-openpi")
        try:
            self.metadata = self._loop.run(self._open())
        except BaseException:
            self.close()
            raise

    def exchange(self, messages: Sequence[bytes]) -> list[bytes]:
        """The server's answer to each message, in order.

        Raises:
            PolicyLost: It reports that its state of an episode is lost.
        """
        return self._loop.run(self._exchange(messages))

    def close(self) -> None:
        """End all connections; a second call does nothing."""
        if self._loop.closed:
            return
        try:
            self._loop.run(self._hang_up())
        finally:
            self._loop.close()

    async def _open(self) -> dict[Any, Any]:
        """Make the first connection and return the server's metadata."""
        self._room = asyncio.Semaphore(self._most)
        self._idle.append(await self._connect())
        assert self._greeting is not None
        try:
            metadata = unpack(self._greeting)
        except BadMessageError as error:
            raise PolicyError(f"the server at {self._url} does not speak openpi's protocol ({error})") from None
        if not isinstance(metadata, dict):
            raise PolicyError(f"the server at {self._url} does not speak openpi's protocol: its first message is no map")
        return metadata

    async def _exchange(self, messages: Sequence[bytes]) -> list[bytes]:
        answers = await asyncio.gather(*map(self._ask, messages), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    async def _ask(self, message: bytes) -> bytes:
        async with self._room:
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._ask_through(connection, message)
                except ConnectionClosed as closed:
                    if closed.rcvd is not None and closed.rcvd.code in _REFUSALS:  # another attempt would end the same
                        raise self._gone(closed) from None
            try:
                return await self._ask_through(await self._connect(), message)
            except ConnectionClosed as closed:
                raise self._gone(closed) from None

    async def _ask_through(self, connection: ClientConnection, message: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                await connection.send(message)
                answer = await connection.recv()
        except TimeoutError:
            connection.transport.abort()
            raise ServerLostError(
                f"the policy server at {self._url} gave no answer within {self._timeout:g} s; raise the policy option timeout"
            ) from None
        except asyncio.CancelledError:
            connection.transport.abort()
            raise
        if isinstance(answer, str):  # openpi's servers send an error as text, its last line is the error
            connection.transport.abort()
            if answer.startswith(LOST):
                raise PolicyLost(f"the policy server at {self._url} has lost an episode: {one_line(answer.removeprefix(LOST))}")
            lines = answer.strip().splitlines() or ["no reason given"]
            raise PolicyError(f"the policy server at {self._url} failed on a request: {one_line(lines[-1])}")
        self._idle.append(connection)
        return answer

    async def _connect(self) -> ClientConnection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await connect(
                    self._url,
                    ssl=self._encryption,
                    additional_headers=authorization(self._token),
                    compression=None,
                    max_size=MAX_MESSAGE_BYTES,
                    open_timeout=None,
                    close_timeout=1.0,
                    ping_timeout=self._timeout,  # openpi's server answers no ping while its policy computes
                    proxy=None,  # an address is used as given, whatever http_proxy is
                )
                try:
                    greeting = await connection.recv()
                except BaseException:
                    connection.transport.abort()
                    raise
        except InvalidStatus as refused:
            status = refused.response.status_code
            hint = "; set VLARIG_POLICY_TOKEN to its token" if status == 401 else ""
            raise PolicyError(f"the server at {self._url} refuses connections (HTTP status {status}){hint}") from None
        except ConnectionClosed as closed:
            raise self._gone(closed) from None
        except (TimeoutError, OSError, InvalidHandshake, EOFError) as error:
            disagreement = handshake_failure(error, self._encryption is not None)
            if disagreement is not None:
                option = "; the policy option ca_file names it" if isinstance(error, ssl.SSLCertVerificationError) else ""
                raise PolicyError(f"the policy server at {self._url} cannot be used: {disagreement}{option}") from None
            reason = f"no answer within {self._connect_timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            if isinstance(error, InvalidHandshake):  # its text may show headers
                reason = f"what answers is no websocket server: {type(error).__name__}"
            raise ServerLostError(
                f"no policy server can be reached at {self._url} ({reason}); start it, or mend the address"
            ) from None
        except (InvalidURI, ValueError):  # a ValueError for a port that is no number
            raise PolicyError(f"{self._url!r} is no address of a policy server; write ws://HOST:PORT") from None
        if not isinstance(greeting, bytes):
            connection.transport.abort()
            raise PolicyError(f"the server at {self._url} does not speak openpi's protocol: its first message is text")
        if self._greeting not in (None, greeting):
            connection.transport.abort()
            raise PolicyError(
                f"the server at {self._url} now announces another policy than before; begin a new run for that one"
            )
        self._greeting = greeting
        return connection

    def _gone(self, closed: ConnectionClosed) -> PolicyError:
        how, kind = "without a word", ServerLostError
        if closed.rcvd is not None:
            kind = PolicyError if closed.rcvd.code in _REFUSALS else ServerLostError
            how = f"with code {closed.rcvd.code}" + f" ({closed.rcvd.reason})" * bool(closed.rcvd.reason)
        return kind(
            f"the policy server at {self._url} closed the connection {how}; see its log, then type the same command again"
        )

    async def _hang_up(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._idle), return_exceptions=True)
        self._idle.clear()
