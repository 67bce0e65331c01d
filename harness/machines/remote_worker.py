"""A worker on another machine, lent by the env server there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from importlib.metadata import version

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ...benchmarks.suite import Suite
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import Frame, frame_of
from ...envs.messages import DIED, LOST, REFUSED, Capacity, Died, Failure, StartWorker, Welcome, WorkerReady, decode, encode
from ...envs.sources import CodeChangedError
from ..children.child import ChildDied
from ..children.line import WorkerLine
from ..children.liveness import KEEPALIVE, hang_up, keep_alive
from ..worker_spec import WorkerSpec
from .remote_machines import RemoteMachine


class RemoteSimulator:
    """A worker behind an env server, which lives as long as the connection.

    Args:
        connection: The connection.
        pid: The worker's process id, on its machine.
    """

    def __init__(self, connection: ClientConnection, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._watch = asyncio.create_task(keep_alive(connection, KEEPALIVE))

    async def send(self, frame: Frame) -> None:
        """Send a request."""
        with contextlib.suppress(ConnectionClosed):  # receive raises
            await self._connection.send(frame.head() + frame.body)

    async def receive(self) -> Frame:
        """The answer to the oldest request that has none.

        Raises:
            ChildDied: There will be none.
        """
        try:
            frame = frame_of(await self._connection.recv())
            if frame.kind != DIED:
                return frame
            died = decode(frame)
        except (BadMessageError, ConnectionClosed) as error:
            raise ChildDied(LOST, f"the connection to the env server broke ({error})") from None
        raise ChildDied(died.kind, died.message, died.running)

    async def end(self, seconds: float = 0.0) -> None:
        """End the connection, and so the worker."""
        self._watch.cancel()
        await hang_up(self._connection)


class RemoteWorkerFactory:
    """Starts a worker on another machine.

    Args:
        machine: The machine's env server.
        worker_spec: The worker's recipe by the run; the other machine has to agree.
        memory_bytes: Most memory that a worker may take; no bound when ``None``.
    """

    def __init__(self, machine: RemoteMachine, worker_spec: WorkerSpec, memory_bytes: int | None = None) -> None:
        self._machine = machine
        self._worker_spec = worker_spec
        self._memory_bytes = memory_bytes
        self._lease = secrets.token_hex(16)

    @property
    def suite(self) -> Suite:
        """The suite whose simulator a worker loads."""
        return self._worker_spec.suite

    @property
    def where(self) -> str:
        """Where its output is."""
        return f"the logs of the env server at {self._machine.url}"

    async def launch(self) -> WorkerLine:
        """Start a worker. This may take for ever: bound it.

        Raises:
            ChildDied: The worker died; ``MachineAwayError`` where the machine gives no answer.
        """
        connection, capacity = await self._machine.reach()
        try:
            ready, welcome = await self._start_worker(connection, capacity)
        except (BadMessageError, ConnectionClosed) as error:
            connection.transport.abort()
            raise ChildDied(LOST, str(error)) from None
        except BaseException:
            connection.transport.abort()
            raise
        return WorkerLine(RemoteSimulator(connection, ready.pid), welcome.embodiment)

    async def _start_worker(self, connection: ClientConnection, capacity: Capacity) -> tuple[WorkerReady, Welcome]:
        renderer = "" if self._worker_spec.renderer is None else self._worker_spec.renderer.name
        order = encode(StartWorker(self.suite.name, self._memory_bytes, self._lease, renderer))
        await connection.send(order.head() + order.body)
        ready = decode(frame_of(await connection.recv()))
        if isinstance(ready, (Failure, Died)):
            reason = f"{self._machine.name} ({capacity.host}): {ready.message}"
            if isinstance(ready, Failure) and ready.kind == REFUSED:
                raise VlarigError(reason, traceback=ready.traceback)
            raise ChildDied(LOST, reason)
        if not isinstance(ready, WorkerReady):
            raise BadMessageError(f"it answered StartWorker with {type(ready).__name__}")
        self._check_alike(ready, capacity)
        welcome = decode(frame_of(await connection.recv()))
        if not isinstance(welcome, Welcome):
            raise BadMessageError(f"it sent {type(welcome).__name__} instead of Welcome")
        return ready, welcome

    def _check_alike(self, ready: WorkerReady, capacity: Capacity) -> None:
        """Make sure that the other machine's simulator is the run's."""
        ours, place = self._worker_spec, f"{self._machine.name} ({capacity.host})"
        if ready.code != ours.code():
            names = " or ".join(["vlarig", *sorted({source.name for source in ours.sources})])
            raise CodeChangedError(
                f"{place} runs other code of {names} (version {capacity.vlarig}) than this machine (version {version('vlarig')}) when "
                "the run began, so its results need not be the same; install the same on both"
            )
        if ready.runtime != ours.runtime.lock_sha256:
            raise VlarigError(
                f"{place} has the runtime {ours.suite.runtime!r} with other packages ({ready.runtime[:12]}) than this machine "
                f"({ours.runtime.lock_sha256[:12]}); type 'vlarig runtime install {ours.suite.runtime}' on both"
            )
        renderer = "" if ours.renderer is None else ours.renderer.name
        if ready.renderer != renderer:
            raise VlarigError(
                f"{place} draws with {ready.renderer or 'its own means'}, this machine with {renderer or 'its own means'}, so its "
                "pictures need not be the same; 'vlarig doctor' on both says what each has"
            )
        for bundle in ours.assets:
            if ready.assets.get(bundle.name) != bundle.identity:
                raise VlarigError(
                    f"{place} has other {bundle.name} assets ({ready.assets.get(bundle.name)}) than this machine ({bundle.identity}); "
                    "point VLARIG_ASSETS at the same files on both"
                )
