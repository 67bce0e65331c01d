"""Other machines on which simulators run: their addresses, connections to them, and the workers that their env servers lend."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ...envs.access import authorization, is_loopback, shown_token
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import Frame, frame_of
from ...envs.messages import (
    DIED,
    LOST,
    REFUSED,
    WIRE_VERSION,
    Capacity,
    Died,
    Failure,
    StartWorker,
    Welcome,
    WorkerReady,
    decode,
    encode,
)
from ...envs.sources import CodeChangedError
from ...envs.tls import client_context, handshake_failure
from ...envs.wire import MAX_MESSAGE_BYTES
from ..children.child_config import ChildDied
from ..children.liveness import CLOSE_SECONDS, KEEPALIVE, hang_up, keep_alive, within
from ..children.simulator import WorkerSpec
from ..children.supervisor import MachineAwayError, WorkerLine
from ..workers import Worker

#: Default port of env servers.
DEFAULT_PORT = 8770

#: Environment variable with the token that env servers require.
TOKEN_VARIABLE = "VLARIG_ENVS_TOKEN"  # noqa: S105

#: Seconds that a connection, and then the server's first message, may take.
CONNECT_SECONDS = 20.0


class MachineBusyError(MachineAwayError):
    """An env server answers, but is busy now."""


@dataclass(frozen=True)
class RemoteMachine:
    """An env server, as ``vlarig serve envs`` starts one.

    Attributes:
        url: Its address, ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        token: Secret to show; empty for none.
        authority: File with the certificates of the authorities to trust; the system's when ``None``.
    """

    url: str
    token: str = field(default="", repr=False)
    authority: Path | None = None

    @property
    def name(self) -> str:
        """Host and port, for records."""
        return self.url.partition("://")[2]

    @property
    def in_the_clear(self) -> bool:
        """Whether the token and the images can be read on the way."""
        return self.url.startswith("ws://") and not is_loopback(urlsplit(self.url).hostname or "")

    async def reach(self) -> tuple[ClientConnection, Capacity]:
        """A connection, and the server's capacity.

        Raises:
            MachineAwayError: No server answers there now; ``MachineBusyError`` where it is busy.
        """
        try:
            return await within(self._reach(), CONNECT_SECONDS)
        except TimeoutError:
            raise MachineAwayError(f"no answer from {self.url} within {CONNECT_SECONDS:g} s") from None

    async def _reach(self) -> tuple[ClientConnection, Capacity]:
        try:
            connection = await connect(
                self.url,
                ssl=client_context(self.authority) if self.url.startswith("wss://") else None,
                additional_headers=authorization(self.token),
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=None,
                close_timeout=CLOSE_SECONDS,
                ping_interval=None,
                proxy=None,  # addresses are used as given, whatever http_proxy says
            )
        except InvalidStatus as refused:
            raise self._refusal(refused.response.status_code) from None
        except (OSError, InvalidHandshake, EOFError) as error:
            disagreement = handshake_failure(error, self.url.startswith("wss://"))
            if disagreement is not None:
                raise VlarigError(f"the env server at {self.url} cannot be used: {disagreement}") from None
            reason = "what answers is no websocket server" if isinstance(error, InvalidHandshake) else str(error)
            raise MachineAwayError(
                f"no env server can be reached at {self.url} ({reason}); start 'vlarig serve envs' there"
            ) from None
        try:
            return connection, self._checked(decode(frame_of(await connection.recv())))
        except ConnectionClosed as closed:
            raise MachineBusyError(f"the env server at {self.url} closed the connection ({closed})") from None
        except BadMessageError as error:
            connection.transport.abort()
            raise VlarigError(
                f"what answers at {self.url} is no env server of this version ({error}); fix the address, or install the same vlarig "
                "on both"
            ) from None
        except BaseException:
            connection.transport.abort()
            raise

    def _refusal(self, status: int) -> Exception:
        if status in (401, 403):
            return VlarigError(
                f"the env server at {self.url} refuses our token; set {TOKEN_VARIABLE} to its token, or give --hosts-token-file"
            )
        if status == 503:
            return MachineBusyError(f"the env server at {self.url} has too many connections")
        return VlarigError(f"what answers at {self.url} is no env server (HTTP status {status}); fix the address")

    def _checked(self, capacity: object) -> Capacity:
        if isinstance(capacity, Failure):
            raise VlarigError(f"the env server at {self.url} refused the connection: {capacity.message}")
        if not isinstance(capacity, Capacity):
            raise BadMessageError(f"{type(capacity).__name__} instead of Capacity")
        if capacity.version != WIRE_VERSION:
            raise VlarigError(
                f"the env server at {self.url} speaks version {capacity.version} and we speak {WIRE_VERSION}; install the same vlarig "
                "on both"
            )
        return capacity


def find_machines(
    addresses: Sequence[str], file: Path | None, token_file: Path | None, authority: Path | None
) -> list[RemoteMachine]:
    """The machines that a user names, in order.

    Args:
        addresses: ``HOST``, ``HOST:PORT`` or ``wss://HOST:PORT`` each.
        file: File with an address a line; empty lines and what follows a ``#`` are passed over.
        token_file: File with the token to show; else the environment's :data:`TOKEN_VARIABLE`, or on this machine the user's own.
        authority: File with the authorities to trust.
    """
    texts = list(addresses)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise VlarigError(
                f"the host file {file} cannot be read ({error}); give a text file with an address a line"
            ) from None
        texts += [text for line in lines if (text := line.partition("#")[0].strip())]
        if not texts:
            raise VlarigError(f"the host file {file} names no host; write an address a line, such as node1:{DEFAULT_PORT}")
    urls = [parse_address(text) for text in texts]
    for url in urls:
        if urls.count(url) > 1:
            raise VlarigError(f"the host {url} is named twice; name each once")
    return [RemoteMachine(url, shown_token(url, TOKEN_VARIABLE, token_file), authority) for url in urls]


def parse_address(text: str) -> str:
    """``HOST``, ``HOST:PORT``, ``ws://HOST:PORT`` or ``wss://HOST:PORT`` as a full address."""
    if "@" in text or "?" in text:
        raise VlarigError(
            f"a host's address has a '@' or a '?', and addresses are saved with a run, so no secret belongs in one; write HOST:PORT, "
            f"and the token into {TOKEN_VARIABLE} or a file for --hosts-token-file"
        )
    refusal = VlarigError(f"{text!r} is no address of an env server; write HOST, HOST:PORT or wss://HOST:PORT")
    try:
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refusal from None
    if not host or parts.scheme not in ("ws", "wss") or parts.path.strip("/") or parts.fragment:
        raise refusal
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or DEFAULT_PORT}"


class RemoteSimulator:
    """A worker behind an env server, which lives as long as the connection. ``pid`` is its process id on its machine."""

    def __init__(self, connection: ClientConnection, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._watch = asyncio.create_task(keep_alive(connection, KEEPALIVE))

    async def send(self, frame: Frame) -> None:
        with contextlib.suppress(ConnectionClosed):  # receive raises
            await self._connection.send(frame.encoded())

    async def receive(self) -> Frame:
        try:
            return reply_in(await self._connection.recv())
        except (BadMessageError, ConnectionClosed) as error:
            raise ChildDied(LOST, f"the connection to the env server broke ({error})") from None

    async def end(self, seconds: float = 0.0) -> None:
        """End the connection, and so the worker."""
        self._watch.cancel()
        await hang_up(self._connection)


class RemoteWorker(Worker):
    """A worker on another machine, which has to agree with the run's recipe."""

    def __init__(self, number: int, machine: RemoteMachine, worker_spec: WorkerSpec, memory_bytes: int | None = None) -> None:
        super().__init__(number, worker_spec, memory_bytes, f"the logs of the env server at {machine.url}", machine.name)
        self._machine = machine
        self._lease = secrets.token_hex(16)

    async def launch(self) -> WorkerLine:
        connection, capacity = await self._machine.reach()
        try:
            await connection.send(order_for(self._worker_spec, self._memory_bytes, self._lease).encoded())
            place = f"{self._machine.name} ({capacity.host})"
            ready = ready_in(await connection.recv(), self._worker_spec, place, capacity.vlarig)
            welcome = welcome_in(await connection.recv())
        except (BadMessageError, ConnectionClosed) as error:
            connection.transport.abort()
            raise ChildDied(LOST, str(error)) from None
        except BaseException:
            connection.transport.abort()
            raise
        return WorkerLine(RemoteSimulator(connection, ready.pid), welcome.embodiment)


def order_for(worker_spec: WorkerSpec, memory_bytes: int | None, lease: str) -> Frame:
    """The request for a worker on another machine, by the run's recipe."""
    renderer = "" if worker_spec.renderer is None else worker_spec.renderer.name
    return encode(StartWorker(worker_spec.suite.name, memory_bytes, lease, renderer))


def ready_in(answer: bytes | str, worker_spec: WorkerSpec, place: str, vlarig: str) -> WorkerReady:
    """The other machine's answer to the request for a worker, which has to be the run's own kind.

    Args:
        answer: What came.
        worker_spec: The run's recipe.
        place: The machine, in messages.
        vlarig: Version of the package there.

    Raises:
        ChildDied: There is no worker.
    """
    ready = decode(frame_of(answer))
    if isinstance(ready, (Failure, Died)):
        reason = f"{place}: {ready.message}"
        if isinstance(ready, Failure) and ready.kind == REFUSED:
            raise VlarigError(reason, traceback=ready.traceback)
        raise ChildDied(LOST, reason)
    if not isinstance(ready, WorkerReady):
        raise BadMessageError(f"it answered StartWorker with {type(ready).__name__}")
    if ready.code != worker_spec.code():
        names = " or ".join(["vlarig", *sorted({source.name for source in worker_spec.sources})])
        raise CodeChangedError(
            f"{place} runs other code of {names} (version {vlarig}) than this machine (version {version('vlarig')}) when the run "
            "began, so its results need not be the same; install the same on both"
        )
    runtime, lock = worker_spec.suite.runtime, worker_spec.runtime.lock_sha256
    if ready.runtime != lock:
        raise VlarigError(
            f"{place} has the runtime {runtime!r} with other packages ({ready.runtime[:12]}) than this machine ({lock[:12]}); "
            f"type 'vlarig runtime install {runtime}' on both"
        )
    renderer = "" if worker_spec.renderer is None else worker_spec.renderer.name
    if ready.renderer != renderer:
        raise VlarigError(
            f"{place} renders with {ready.renderer or 'its own means'}, this machine with {renderer or 'its own means'}, so its "
            "images need not be the same; 'vlarig doctor' on both says what each has"
        )
    for bundle in worker_spec.assets:
        if ready.assets.get(bundle.name) != bundle.identity:
            raise VlarigError(
                f"{place} has other {bundle.name} assets ({ready.assets.get(bundle.name)}) than this machine ({bundle.identity}); "
                "point VLARIG_ASSETS at the same files on both"
            )
    return ready


def welcome_in(answer: bytes | str) -> Welcome:
    """The first message of a worker on another machine."""
    welcome = decode(frame_of(answer))
    if not isinstance(welcome, Welcome):
        raise BadMessageError(f"it sent {type(welcome).__name__} instead of Welcome")
    return welcome


def reply_in(answer: bytes | str) -> Frame:
    """A reply of a worker on another machine.

    Raises:
        BadMessageError: It is none.
        ChildDied: The worker died.
    """
    frame = frame_of(answer)
    if frame.kind != DIED:
        return frame
    died = decode(frame)
    raise ChildDied(died.kind, died.message, died.running)
