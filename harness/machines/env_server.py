"""The env server: lends workers of this machine to sweeps that run elsewhere.

A connection is a worker: it starts when a client requests it, and ends with the connection. Frames pass both ways, and only their heads
are read. One port serves any number of workers.
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

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import unknown
from ...envs.access import may_enter, refuse_without_token
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import Frame, frame_of
from ...envs.messages import (
    BAD_MESSAGE,
    LOST,
    REFUSED,
    WIRE_VERSION,
    Capacity,
    Died,
    Failure,
    StartWorker,
    WorkerReady,
    decode,
    encode,
)
from ...envs.wire import MAX_MESSAGE_BYTES
from ..children.child import Launcher
from ..children.child_config import ChildDied
from ..children.liveness import CLOSE_SECONDS, KEEPALIVE, TICK, hang_up, keep_alive, within
from ..children.simulator import Simulator, WorkerLog, WorkerSpec
from ..sizing import Machine
from ..workers import START_MARGIN
from .remote_machines import DEFAULT_PORT

#: Seconds that a client may take to send its request. One that only reads the capacity leaves before.
START_WORKER_SECONDS = 60.0

#: Connections at a time beside those of workers, for clients that read the capacity.
MORE_CONNECTIONS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnvServerConfig:
    """How simulators are lent.

    Attributes:
        token: Secret that a client must show.
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.
        encryption: Certificate and key for TLS; no encryption when ``None``.
        suites: Names of the suites that are lent; all installed ones when empty.
        workers: Most workers at a time; as many as cores when ``None``.
        logs: Folder of the workers' logs.
    """

    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    encryption: ssl.SSLContext | None = field(default=None, repr=False)
    suites: tuple[str, ...] = ()
    workers: int | None = None
    logs: Path = Path("logs")

    def __post_init__(self) -> None:
        refuse_without_token(self.host, self.token)


class EnvServer:
    """Lends workers. Use it as an asynchronous context manager."""

    def __init__(self, config: EnvServerConfig) -> None:
        self._config = config
        self._most = config.workers or Machine.here().cores
        self._leases: dict[str, ServerConnection] = {}
        self._numbers: set[int] = set()
        self._launcher = Launcher()
        for name in config.suites:
            WorkerSpec.of(load_suite(name))

    async def __aenter__(self) -> EnvServer:
        config = self._config
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
            )
        except OSError as error:
            reason = error.strerror or error
            raise VlarigError(f"cannot listen on {config.host}:{config.port} ({reason}); choose another port") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close(close_connections=False)
        closed = asyncio.ensure_future(self._server.wait_closed())
        while not closed.done():  # some have shaken hands meanwhile
            for connection in self._server.connections:
                connection.transport.abort()
            await asyncio.wait({closed}, timeout=TICK)
        await self._launcher.__aexit__()

    @property
    def port(self) -> int:
        return self._server.sockets[0].getsockname()[1]

    def capacity(self) -> Capacity:
        """What this machine can lend now."""
        here = Machine.here()
        free = self._most - len(self._numbers)
        return Capacity(WIRE_VERSION, version("vlarig"), platform.node(), here.cores, here.memory, free)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a connection, or answer ``/healthz``; ``None`` accepts the connection."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not may_enter(request.headers, self._config.token):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if len(self._server.connections) >= self._most + MORE_CONNECTIONS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """Serve one client. An error ends this connection and no other."""
        watch = asyncio.create_task(keep_alive(connection, KEEPALIVE))
        try:
            await _send(connection, encode(self.capacity()))
            order = decode(frame_of(await within(connection.recv(), START_WORKER_SECONDS)))
            if not isinstance(order, StartWorker):
                raise BadMessageError(f"{type(order).__name__} instead of StartWorker")
            await self._serve(connection, order)
        except BadMessageError as error:
            await hang_up(connection, 1008, encode(Failure(BAD_MESSAGE, str(error))).encoded())
        except (VlarigError, ChildDied) as error:
            await hang_up(connection, 1011, last_words(error).encoded())
        except (ConnectionClosed, TimeoutError):
            pass
        except Exception:  # a defect of this program
            logger.exception("a connection failed")
            await hang_up(
                connection, 1011, encode(Died(LOST, "the env server failed; its output has the traceback", 0)).encoded()
            )
        finally:
            watch.cancel()
            connection.transport.abort()

    async def _serve(self, connection: ServerConnection, order: StartWorker) -> None:
        """Start a worker for a connection, pass frames on, and end it.

        Raises:
            ChildDied: The worker does not start or has died, or there is no room for it.
            BadMessageError: The client sent an invalid request.
        """
        if self._config.suites and order.suite not in self._config.suites:
            raise unknown("suite", order.suite, self._config.suites, "this env server")
        worker_spec = recipe_of(order)
        before = self._leases.get(order.lease)
        if before is not None:
            before.transport.abort()  # its client has lost it, and requests another
        number = await self._take_number()
        self._leases[order.lease] = connection
        logger.info("worker %d: %s for %s", number, order.suite, connection.remote_address[0])
        try:
            log = WorkerLog(self._config.logs / f"{order.suite}-worker-{number}.log")
            await _while_connected(connection, self._lend(connection, worker_spec, log, order.memory))
        finally:
            self._numbers.discard(number)
            if self._leases.get(order.lease) is connection:
                del self._leases[order.lease]
            logger.info("worker %d: ended", number)

    async def _lend(self, connection: ServerConnection, worker_spec: WorkerSpec, log: WorkerLog, memory: int | None) -> None:
        """Start a worker, and connect it to its client. Raises like :meth:`_serve`."""
        simulator = await start_simulator(self._launcher, worker_spec, log, memory)
        try:
            await _send(connection, ready(worker_spec, simulator.pid))
            await _send(connection, simulator.first)
            await _pass_on(connection, simulator)
        finally:
            await simulator.end()

    async def _take_number(self) -> int:
        """The lowest number that no worker has; waits for a worker that is just ending.

        Raises:
            ChildDied: All are in use.
        """
        for _ in range(2):
            free = set(range(self._most)) - self._numbers
            if free:
                self._numbers.add(min(free))
                return min(free)
            await asyncio.sleep(CLOSE_SECONDS)
        raise ChildDied(LOST, f"all {self._most} workers of this env server are in use")


async def _while_connected(connection: ServerConnection, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until the connection is closed: loading a simulator may take minutes."""
    working, closed = asyncio.create_task(work), asyncio.create_task(connection.wait_closed())
    try:
        await asyncio.wait({working, closed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        closed.cancel()
        working.cancel()
        await asyncio.wait({working})
    if not working.cancelled():
        working.result()


def recipe_of(order: StartWorker) -> WorkerSpec:
    """The recipe, on this machine, of the worker that a client requests."""
    worker_spec = WorkerSpec.of(load_suite(order.suite))
    with contextlib.suppress(VlarigError):  # the client learns which renderer is used here instead, and refuses it
        worker_spec = worker_spec.rendered_by([order.renderer], "")
    return worker_spec


async def start_simulator(launcher: Launcher, worker_spec: WorkerSpec, log: WorkerLog, memory: int | None) -> Simulator:
    """Start a worker for a client on another machine, in bounded time.

    Raises:
        ChildDied: It does not start.
    """
    seconds = worker_spec.suite.patience.load + START_MARGIN
    try:
        log.open()
        return await within(Simulator.start(launcher, worker_spec, log.add, memory), seconds)
    except TimeoutError:
        raise ChildDied(LOST, "its worker did not start in time") from None
    except OSError as error:
        raise ChildDied(LOST, f"its worker cannot be started ({error})") from None


def ready(worker_spec: WorkerSpec, pid: int) -> Frame:
    """What a client gets to know of its worker before the worker's own first frame."""
    return encode(
        WorkerReady(
            runtime=worker_spec.runtime.lock_sha256,
            renderer="" if worker_spec.renderer is None else worker_spec.renderer.name,
            assets={bundle.name: bundle.identity for bundle in worker_spec.assets},
            code=worker_spec.code(),
            pid=pid,
        )
    )


def last_words(error: VlarigError | ChildDied) -> Frame:
    """The frame after which a client has no worker."""
    if isinstance(error, ChildDied):
        return encode(Died(error.kind, str(error), error.running))
    return encode(Failure(REFUSED, str(error), error.traceback))


async def _pass_on(connection: ServerConnection, simulator: Simulator) -> None:
    """Pass frames on, both ways, until either end closes.

    While the simulator takes no requests, or the client reads no answers, nothing more is read: frames do not pile up here.

    Raises:
        BadMessageError: The client sent an invalid request.
        ChildDied: The worker died.
    """

    async def requests() -> None:
        async for message in connection:
            await simulator.send(frame_of(message))
            await simulator.sent()

    async def answers() -> None:
        while True:
            await _send(connection, await simulator.receive())

    tasks = [asyncio.create_task(requests()), asyncio.create_task(answers())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _send(connection: ServerConnection, frame: Frame) -> None:
    await connection.send(frame.encoded())
