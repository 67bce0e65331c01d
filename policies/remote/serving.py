"""The policy server: any policy behind openpi's websocket protocol, its answers batched over all clients.

The protocol is that of Physical-Intelligence/openpi src/openpi/serving/websocket_policy_server.py@15a9616: on a connection the server
first sends what it serves; then each observation gets ``{"actions": float32[H, A], "server_timing": {...}}``. An error is a text and
the end of its connection. Unlike the original, nothing that a client sends is trusted, and inference never blocks the event loop.
A client is sent the errors in its own message; failures of the policy go to the server's log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from ...envs.access import may_enter, refuse_without_token
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, VlarigError
from ..api import Policy, PolicyError, PolicyLost, Request, policy_seed
from ..batching import Batcher, Batching
from ..calls import check_fit, horizon_for, make_strict
from ..member_queue import Answer
from .openpi_layouts import ObservationLayout
from .wire import CLIENT, LOST, MAX_MESSAGE_BYTES, METADATA_KEY, Announcement, OwnKeys, pack, unpack

#: How requests of many clients are put together, by default.
DEFAULT_BATCHING = Batching(64, wait_seconds=0.005, alone_on_failure=True)

#: Longest error text that a client is sent, in characters.
_MAX_ERROR = 500

#: Seconds that requests under way get to be answered when the server stops.
_STOP_SECONDS = 10.0

#: Seconds that a client gets to end its connection.
_CLOSE_SECONDS = 2.0

#: Seconds that the envs of a client without a connection are kept for it: it may have lost one and send its request again.
GRACE_SECONDS = 60.0

#: What the reader's own names of clients of ours begin with.
_OURS = "client "

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerConfig:
    """How a policy is served.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.
        token: Secret that a client must show; empty for none, on the loopback interface alone.
        encryption: The certificate to show, from :func:`~vlarig.envs.tls.server_context`; ``None`` for connections in the clear.
        batching: How requests of all clients are put together.
        strict: Answer one request at a time, in one thread and in float32.
        options: The policy's options, by name. They are announced with the revision, so that two servers with different options
            count as two; the policy's ``transport_options``, which change no answer, are left out.
        sources: Source files of a third party's policy, and files that its options name, each with its hash; they are announced in the
            same way.
        n_action_steps: Steps of an answer to a client that does not request a number, from a policy without a horizon of its own.
        seed: Base of the sampling seeds for clients that send no seeds.
        most_connections: Connections at a time.
        most_bytes: Size of a message.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    encryption: ssl.SSLContext | None = None
    batching: Batching = DEFAULT_BATCHING
    strict: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    n_action_steps: int = 8
    seed: int = 0
    most_connections: int = 256
    most_bytes: int = MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        refuse_without_token(self.host, self.token)


class PolicyServer:
    """Serves one policy to any number of clients. Use it as an asynchronous context manager; what is under way is answered at its end.

    Args:
        embodiment: The embodiment that it moves for all clients.
        layout: The observation layout that it reads.
        config: How to serve it.
    """

    def __init__(self, policy: Policy, embodiment: Embodiment, layout: ObservationLayout, config: ServerConfig) -> None:
        if policy.needs.privileged:
            raise PolicyError(
                f"the policy {policy.name!r} needs the simulator's truth, which no client sends; serve another policy"
            )
        check_fit(policy, embodiment.name, embodiment)
        reads_state = policy.reads_state
        layout.refuse_unfit(f"the policy {policy.name!r}", embodiment, policy.needs.images, reads_state)
        batching = config.batching
        if config.strict:
            make_strict(policy)
            batching = Batching(1)
        beside = policy.transport_options
        options = [f"{name}={value}" for name, value in sorted(config.options.items()) if name not in beside]
        options += [f"{name}={sha256[:12]}" for name, sha256 in sorted(config.sources.items())]
        self.announcement = Announcement(
            name=policy.name,
            revision=" ".join([policy.revision, *options]),
            horizon=horizon_for(policy, embodiment),
            layout=layout.name,
            reads_images=policy.needs.images,
            reads_state=reads_state,
            strict=config.strict,
            embodiment=embodiment,
            table_note=policy.table_note,
            n_action_steps=policy.n_action_steps,
        )
        self._metadata = pack({METADATA_KEY: self.announcement.to_data()})
        self._config = config
        self._batcher = Batcher(policy, batching)
        self._reader = RequestReader(self.announcement, layout, config.seed, config.n_action_steps, freed=self._batcher.forget)
        self._numbers = itertools.count()
        self._connections: set[ServerConnection] = set()
        self._requests: set[asyncio.Task[Answer]] = set()
        self._under_way = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._stopping = False
        self._stack = contextlib.AsyncExitStack()
        self.answered = 0
        """Requests answered so far."""

    async def __aenter__(self) -> PolicyServer:
        config = self._config
        await self._stack.enter_async_context(self._batcher)
        try:
            self._server: Server = await serve(
                self._handle,
                config.host,
                config.port,
                process_request=self._admit,
                origins=[None],  # a web page that a user of this machine visits names its origin; no program does
                compression=None,
                max_size=config.most_bytes,
                max_queue=1,
                close_timeout=_CLOSE_SECONDS,
                ssl=config.encryption,
            )
        except OSError as error:
            await self._stack.aclose()
            raise PolicyError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror or error}); choose another port"
            ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new connections, answer the requests under way, and end all connections. A policy that still computes is awaited."""
        self._stopping = True
        self._server.close(close_connections=False)
        try:
            await asyncio.wait_for(self._all_answered.wait(), _STOP_SECONDS)
        except TimeoutError:
            for each in self._requests:
                each.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_answered.wait(), _CLOSE_SECONDS)
        await asyncio.gather(*(connection.close(1001, "the server stops") for connection in self._connections))
        await self._server.wait_closed()
        await self._stack.aclose()

    @property
    def address(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        scheme = "ws" if self._config.encryption is None else "wss"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answer requests that are not for the policy; ``None`` accepts the connection."""
        if request.path == "/healthz":
            if self._batcher.answers:
                return connection.respond(http.HTTPStatus.OK, "OK\n")
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy is lost\n")
        if not may_enter(request.headers, self._config.token):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if len(self._connections) >= self._config.most_connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "there are too many connections\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """One connection's conversation. Whatever goes wrong in it costs this connection and no other."""
        number = next(self._numbers)
        self._connections.add(connection)
        self._batcher.playing = len(self._connections)
        try:
            await self._converse(connection, number)
        except ConnectionClosed:
            pass
        except VlarigError as error:
            await _refuse(connection, str(error))
        except PolicyLost:
            await _refuse(connection, f"{LOST}the policy's state of the episode is lost; begin the episode again")
        except Exception:
            logger.exception("connection %d failed", number)
            await _refuse(connection, "the server failed on this request; its log says how")
        finally:
            self._connections.discard(connection)
            self._batcher.playing = len(self._connections)
            self._reader.forget(number)

    async def _converse(self, connection: ServerConnection, number: int) -> None:
        await connection.send(self._metadata)
        last_seconds: float | None = None
        async for data in connection:
            if self._stopping:
                return
            began = time.perf_counter()
            self._under_way += 1
            self._all_answered.clear()
            try:
                await connection.send(await self._answer(data, number, last_seconds))
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._all_answered.set()
            last_seconds = time.perf_counter() - began

    async def _answer(self, data: bytes | str, number: int, last_seconds: float | None) -> bytes:
        message = unpack(data)
        if not isinstance(message, dict):
            raise BadMessageError(f"a request has to be a map of observations; got {type(message).__name__}")
        answer = await self._ask(self._reader.read(message, number))
        timing = {"infer_ms": answer.seconds * 1000}
        if last_seconds is not None:
            timing["prev_total_ms"] = last_seconds * 1000
        self.answered += 1
        return pack({"actions": answer.reply.actions, "server_timing": timing})

    async def _ask(self, request: Request) -> Answer:
        """The policy's answer; the policy's failures are logged, and the client is sent only their occurrence."""
        key = request.key[:200]
        answer = asyncio.create_task(self._batcher.ask(request))
        self._requests.add(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() or not self._stopping:
                raise
            raise PolicyError(f"the server stops, and its policy has not answered {key} in time") from None
        except PolicyLost:
            raise  # the log has it from the replica
        except Exception as error:
            replicas = "" if error.__cause__ else getattr(error, "traceback", "")  # one from here has the exception itself
            logger.error("the policy failed on request %r\n%s", key, replicas, exc_info=error)
            raise PolicyError(f"the policy failed on this request ({key}); the server's log says how") from None
        finally:
            self._requests.discard(answer)


async def _refuse(connection: ServerConnection, text: str) -> None:
    """Say what was wrong and end the connection."""
    line = " ".join(text.split())[:_MAX_ERROR]
    with contextlib.suppress(ConnectionClosed):
        await connection.send(line)
        await connection.close(1011, "see the text before this")


@dataclass
class _Client:
    """One client: its connections, and the policy's number of each of its envs."""

    connections: set[int] = field(default_factory=set)
    envs: dict[int, int] = field(default_factory=dict)


class RequestReader:
    """Reads requests, and keeps the policy's env numbers apart for clients that all count their own from 0.

    A client of ours sends the env, the chunk and the seed of a request; it may use several connections, and
    reconnect after it lost the last one. Any other client is one env a connection: its first request is chunk 0, and its seeds follow
    from the server's seed and both numbers.

    Args:
        announcement: What is served.
        layout: Under which keys observations come.
        seed: Base of the sampling seeds for clients that send no seeds.
        n_action_steps: Steps for a client that does not request a number.
        clock: Returns the time in seconds.
        freed: Called with the policy's number of each env that no client has any more.
    """

    def __init__(
        self,
        announcement: Announcement,
        layout: ObservationLayout,
        seed: int,
        n_action_steps: int,
        clock: Callable[[], float] = time.monotonic,
        freed: Callable[[int], None] = lambda env: None,
    ) -> None:
        self._announcement, self._layout = announcement, layout
        self._seed, self._n_action_steps = seed, n_action_steps
        self._clock = clock
        self._freed = freed
        self._clients: dict[str, _Client] = {}
        self._left: dict[str, float] = {}
        """Clients without a connection, in the order in which they left, and when."""
        self._client_of: dict[int, str] = {}
        self._counts: dict[int, int] = {}
        self._free: list[int] = []
        self._numbers = itertools.count()

    def read(self, message: Mapping[str, Any], connection: int) -> Request:
        """The request in ``message``, which came over that connection.

        Raises:
            BadMessageError: A key is missing or its value is not what it should be.
        """
        announced = self._announcement
        embodiment = announced.embodiment
        observation = self._layout.observation(message, embodiment, announced.reads_images, announced.reads_state)
        count = self._counts.get(connection, 0)
        if CLIENT in message:
            try:
                ours = msgspec.convert(message, OwnKeys)
            except msgspec.ValidationError as error:
                raise BadMessageError(f"a request of a client of ours: {error}") from None
            key, chunk, seed, n_action_steps = ours.key, ours.chunk, ours.seed, ours.n_action_steps
            number = self._env_of(f"{_OURS}{ours.client}", ours.env, chunk, connection, key)
        else:
            key, chunk, n_action_steps = f"connection/{connection}", count, self._n_action_steps
            seed = policy_seed(self._seed, key, chunk)
            number = self._env_of(f"connection {connection}", 0, chunk, connection, key)
        self._counts[connection] = count + 1
        return Request(number, key, chunk, seed, observation, embodiment, max(n_action_steps, 1))

    def forget(self, connection: int) -> None:
        """The connection is over; the envs of a client without another one are free, those of one of ours after a while."""
        self._counts.pop(connection, None)
        name = self._client_of.pop(connection, None)
        if name is None:
            return
        client = self._clients[name]
        client.connections.discard(connection)
        if client.connections:
            return
        if name.startswith(_OURS):
            self._left[name] = self._clock()
            self._free_absent()
        else:
            self._free_envs(name)

    def _free_absent(self) -> None:
        """Forget the clients that have been away for too long."""
        now = self._clock()
        while self._left:
            name, left = next(iter(self._left.items()))
            if now - left < GRACE_SECONDS:
                return
            del self._left[name]
            self._free_envs(name)

    def _free_envs(self, name: str) -> None:
        for number in self._clients.pop(name).envs.values():
            self._free.append(number)
            self._freed(number)

    def _env_of(self, name: str, env: int, chunk: int, connection: int, key: str) -> int:
        """The policy's number for a client's env."""
        if self._client_of.setdefault(connection, name) != name:
            raise BadMessageError(f"{CLIENT!r} changed within a connection; keep to one")
        self._free_absent()
        self._left.pop(name, None)
        client = self._clients.setdefault(name, _Client())
        client.connections.add(connection)
        if env not in client.envs:
            if chunk:  # the policy has no state for it, or another episode's
                raise BadMessageError(
                    f"{key} is at chunk {chunk}, but its first request did not arrive here (was the server restarted?)"
                )
            client.envs[env] = self._free.pop() if self._free else next(self._numbers)
        return client.envs[env]
