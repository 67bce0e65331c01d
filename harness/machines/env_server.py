"""The env server: lends sim servers of this machine to sweeps that run elsewhere.

A connection is a sim server: it is started when a client asks for it, and ended with the connection, however that ends. What is said
on the connection then goes on to the sim server as it is, and back. One port is enough, for any number of sim servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import platform
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import unknown
from ...envs.access import may_enter, refuse_open_door
from ...envs.errors import BadMessageError, VlarigError
from ...envs.handshakes import Handshakes
from ...envs.messages import BAD_MESSAGE, LOST, REFUSED, WIRE_VERSION, Failure, Hire, Hired, Offer, Welcome, decode, encode
from ...envs.wire import MAX_MESSAGE_BYTES
from ..machine import Machine
from ..placement import START_MARGIN
from ..simulation.liveness import CLOSE_SECONDS, KEEPALIVE, hang_up, keep_alive, within
from ..workplace import Workplace
from .client import ServerGone, reach
from .local_server import LocalServer
from .remote_machines import DEFAULT_PORT

#: Seconds that a client may take to say what it wants. One that only wants to know the offer leaves before.
HIRE_SECONDS = 60.0

#: Connections at a time beside those of sim servers: clients that ask for the offer.
MORE_CONNECTIONS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnvServerConfig:
    """How simulators are lent.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.
        token: Secret that a client must show; empty for none, on the loopback interface alone.
        encryption: What is shown to clients that connect with TLS; no encryption when ``None``.
        suites: Names of the suites that are lent; all that are installed when empty.
        workers: Most sim servers at a time; as many as cores when ``None``.
        logs: Folder of the sim servers' logs.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str = field(default="", repr=False)
    encryption: ssl.SSLContext | None = field(default=None, repr=False)
    suites: tuple[str, ...] = ()
    workers: int | None = None
    logs: Path = Path("logs")

    def __post_init__(self) -> None:
        refuse_open_door(self.host, self.token)


class EnvServer:
    """Lends sim servers. Use it as an asynchronous context manager.

    Raises:
        VlarigError: A suite does not exist or is not ready.
    """

    def __init__(self, config: EnvServerConfig) -> None:
        self._config = config
        self._most = config.workers or Machine.here().cores
        self._leases: dict[str, ServerConnection] = {}
        self._numbers: set[int] = set()
        self._connections: set[ServerConnection] = set()
        self._handshakes = Handshakes()
        for name in config.suites:
            Workplace.of(load_suite(name))

    async def __aenter__(self) -> EnvServer:
        """Begin to listen.

        Raises:
            VlarigError: The address cannot be listened on.
        """
        config = self._config
        self._handshakes.watch_loop()
        try:
            self._server: Server = await serve(
                self._handle,
                config.host,
                config.port,
                ssl=config.encryption,
                process_request=self._admit,
                origins=[None],  # a web page that a user of this machine visits names its origin; no program does
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=4,
                ping_interval=None,
                close_timeout=CLOSE_SECONDS,
                **self._handshakes.options(),
            )
        except OSError as error:
            reason = error.strerror or error
            raise VlarigError(f"cannot listen on {config.host}:{config.port} ({reason}); choose another port") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections and their sim servers."""
        self._server.close(close_connections=False)
        self._handshakes.close()
        for connection in self._connections:
            connection.transport.abort()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.sockets[0].getsockname()[1]

    def offer(self) -> Offer:
        """What there is."""
        here = Machine.here()
        free = self._most - len(self._numbers)
        return Offer(WIRE_VERSION, version("vlarig"), platform.node(), here.cores, here.memory, free)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is not for us; ``None`` lets the connection in."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not may_enter(request.headers, self._config.token):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if len(self._connections) >= self._most + MORE_CONNECTIONS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """One client. Whatever goes wrong with it costs this connection and no other."""
        self._connections.add(connection)
        watch = asyncio.create_task(keep_alive(connection, KEEPALIVE))
        try:
            await connection.send(encode(self.offer()))
            hire = decode(await within(connection.recv(), HIRE_SECONDS))
            if not isinstance(hire, Hire):
                raise BadMessageError(f"{type(hire).__name__} instead of Hire")
            await self._serve(connection, hire)
        except BadMessageError as error:
            await hang_up(connection, 1008, encode(Failure(-1, BAD_MESSAGE, str(error))))
        except VlarigError as error:
            await hang_up(connection, 1011, encode(Failure(-1, REFUSED, str(error), error.traceback)))
        except ServerGone as error:
            await hang_up(connection, 1011, encode(Failure(-1, LOST, str(error))))
        except (ConnectionClosed, TimeoutError):
            pass
        except Exception:  # a defect of ours
            logger.exception("a connection failed")
            await hang_up(connection, 1011, encode(Failure(-1, LOST, "the env server failed; what it printed says how")))
        finally:
            watch.cancel()
            connection.transport.abort()
            self._connections.discard(connection)

    async def _serve(self, connection: ServerConnection, hire: Hire) -> None:
        """Start a sim server for a connection, pass on what is said, and end it.

        Raises:
            VlarigError: The suite is not lent, or its simulator says what the user can mend.
            ServerGone: It does not start, or there is no room for it.
        """
        if self._config.suites and hire.suite not in self._config.suites:
            raise unknown("suite", hire.suite, self._config.suites, "this env server")
        workplace = Workplace.of(load_suite(hire.suite))
        with contextlib.suppress(VlarigError):  # what draws here instead is said to the client, who refuses it
            workplace = workplace.drawn_by([hire.renderer], "")
        before = self._leases.get(hire.lease)
        if before is not None:
            before.transport.abort()  # its client has lost it, and asks for another
        number = await self._take_number()
        self._leases[hire.lease] = connection
        server = LocalServer(workplace, self._config.logs / f"{hire.suite}-worker-{number}.log", hire.memory)
        logger.info("worker %d: %s for %s", number, hire.suite, connection.remote_address[0])
        try:
            await _while_connected(connection, _lend(connection, server, workplace))
        finally:
            await server.end()
            self._numbers.discard(number)
            if self._leases.get(hire.lease) is connection:
                del self._leases[hire.lease]
            logger.info("worker %d: ended", number)

    async def _take_number(self) -> int:
        """The lowest number that no sim server has; one that is just being ended is awaited.

        Raises:
            ServerGone: All are in use.
        """
        for _ in range(2):
            free = set(range(self._most)) - self._numbers
            if free:
                self._numbers.add(min(free))
                return min(free)
            await asyncio.sleep(CLOSE_SECONDS)
        raise ServerGone(f"all {self._most} workers of this env server are in use")


async def _while_connected(connection: ServerConnection, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until the client is gone: to load a simulator may take minutes."""
    working, gone = asyncio.create_task(work), asyncio.create_task(connection.wait_closed())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait({working})
    if not working.cancelled():
        working.result()


async def _lend(connection: ServerConnection, server: LocalServer, workplace: Workplace) -> None:
    """Start a sim server, and have its client talk to it. Raises like :meth:`.machines.local_server.LocalServer.start`."""
    line, welcome = await _start(server)
    try:
        assert server.pid is not None
        await connection.send(encode(_hired(workplace, server.pid)))
        await connection.send(encode(welcome))
        await _pass_on(connection, line)
    finally:
        line.transport.abort()


async def _start(server: LocalServer) -> tuple[ClientConnection, Welcome]:
    """Start a sim server; a connection to it, and its greeting. Raises like :meth:`.machines.local_server.LocalServer.start`."""

    async def start() -> tuple[ClientConnection, Welcome]:
        await server.start()
        return await reach(*server.address)

    try:
        return await within(start(), server.suite.patience.load + START_MARGIN)
    except TimeoutError:
        raise ServerGone("its sim server does not stand in time") from None


def _hired(workplace: Workplace, pid: int) -> Hired:
    return Hired(
        runtime=workplace.runtime.lock_sha256,
        renderer="" if workplace.renderer is None else workplace.renderer.name,
        assets={bundle.name: bundle.identity for bundle in workplace.assets},
        code=workplace.code(),
        pid=pid,
    )


async def _pass_on(client: ServerConnection, line: ClientConnection) -> None:
    """Pass messages on as they are, both ways, until either end is gone; then neither is left."""

    async def pump(source: ServerConnection | ClientConnection, drain: ServerConnection | ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                await drain.send(message)

    tasks = [
        asyncio.create_task(pump(client, line)),
        asyncio.create_task(pump(line, client)),
        asyncio.create_task(keep_alive(line, KEEPALIVE)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
