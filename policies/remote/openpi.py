"""A remote policy behind openpi's websocket protocol: ``vlarig sweep SUITE --policy openpi:ws://HOST:PORT``."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from pydantic import Field
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from ...envs.access import authorization, shown_token
from ...envs.api import Needs
from ...envs.background import BackgroundLoop, all_of
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError
from ...envs.tls import client_context, handshake_failure
from ...envs.untrusted import one_line
from ..api import Policy, PolicyError, PolicyLost, Reply, Request
from ..conventions import ImageFit, differences, find_embodiment, refuse_differences
from ..registry import ImageSize, Options, Seconds, read_options
from .openpi_layouts import LAYOUTS, ObservationLayout, find_layout
from .wire import (
    LOST,
    MAX_MESSAGE_BYTES,
    METADATA_KEY,
    TOKEN_VARIABLE,
    Announcement,
    OwnKeys,
    pack,
    refuse_secrets,
    unpack,
    why_unreachable,
)

#: Codes with which a server ends a connection because of what it was sent.
_REFUSALS = (1008, 1009)


class ServerLostError(PolicyError):
    """The server cannot be reached, or does not answer; its policy did nothing wrong."""


class Settings(Options):
    """Options of the remote policy, given as ``--policy-options NAME=VALUE``."""

    layout: str | None = None
    """The keys of the observations that the server reads."""
    convention: str | None = None
    """What the server's numbers mean: name of an embodiment, or a JSON file with one."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Steps of each answer."""
    image_size: ImageSize | None = None
    """Size of an image, where it is not the layout's."""
    image_fit: ImageFit | None = None
    """How an image gets that size, where it is not the layout's way."""
    revision: str | None = None
    """Names the policy's revision, such as its checkpoint, where the server announces none."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 64
    """Most connections at a time, each with one request under way."""
    timeout: Seconds = 120.0
    """Seconds that an answer may take."""
    connect_timeout: Seconds = 20.0
    """Seconds that a connection may take."""
    token_file: Path | None = None
    """File with the token to show; else the environment's VLARIG_POLICY_TOKEN, or on this machine the user's own."""
    ca_file: Path | None = None
    """For wss://: file with the certificate of the authority to trust, or the server's own; else the system's are."""


class ConnectionPool:
    """Exchanges messages for a caller that waits. Connections are made when they are needed; the first one at once.

    Args:
        url: Address of the server, ``ws://`` or ``wss://``.
        options: Times and number of connections, and how to check the certificate of a server at ``wss://``.
    """

    def __init__(self, url: str, options: Settings) -> None:
        self._url = url
        self._timeout, self._connect_timeout, self._most = options.timeout, options.connect_timeout, options.connections
        self._encryption = client_context(options.ca_file) if url.startswith("wss://") else None
        self._token = shown_token(url, TOKEN_VARIABLE, options.token_file)
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
        return self._loop.run(all_of(map(self._ask, messages)))

    def close(self) -> None:
        """End all connections; a second call does nothing."""
        self._loop.close(self._hang_up)

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
            reason = why_unreachable(error, self._connect_timeout)
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


class OpenpiPolicy(Policy):
    """Plays what an openpi server answers. A batch goes out over several connections at once, so that the server can batch too.

    Our server (``vlarig serve policy``) announces the embodiment that its policy moves, the observation layout that it reads and
    its steps an answer. Any other announces nothing, and the user has to declare it: without a declaration the run stops, and so it
    does where a declaration contradicts an announcement.

    Args:
        argument: Address of the server, ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        settings: The fields of :class:`Settings`, as given.
    """

    transport_options = frozenset({"ca_file", "connections", "timeout", "connect_timeout", "token_file"})
    """Options that change no answer."""

    def __init__(self, argument: str, **settings: Any) -> None:
        options = read_options(Settings, settings, "the openpi policy")
        refuse_secrets(argument, "openpi")
        if not argument.startswith(("ws://", "wss://")):
            raise PolicyError(f"{argument!r} is no address of a policy server; write openpi:ws://HOST:PORT")
        self._address = argument
        if options.ca_file is not None and not argument.startswith("wss://"):
            raise PolicyError(
                f"ca_file={options.ca_file} names a certificate to trust, and {argument} is not encrypted; write wss://"
            )
        self._pool = ConnectionPool(argument, options)
        try:
            self._announced = self._read_metadata()
            self._settle(options)
        except BaseException:
            self._pool.close()
            raise
        self._client = uuid.uuid4().hex

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, self._embodiment, embodiment, self.reads_state)
        self._layout.refuse_unfit(f"suite {suite!r}", embodiment, self.needs.images, self.reads_state)

    def strict(self) -> None:
        """Make sure that the server computes strictly; a client cannot switch that on."""
        if self._announced is None or not self._announced.strict:
            raise PolicyError(
                f"the policy server at {self._address} does not announce that it is strict; start it with --strict"
            )

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The server's answer to each request.

        Raises:
            PolicyLost: The server reports that the replica with one of our episodes died.
        """
        answers = self._pool.exchange([pack(self._message(request)) for request in requests])
        return [Reply(self._actions(answer)) for answer in answers]

    def close(self) -> None:
        self._pool.close()

    def _read_metadata(self) -> Announcement | None:
        if METADATA_KEY not in self._pool.metadata:
            return None
        try:
            return Announcement.from_data(self._pool.metadata[METADATA_KEY])
        except PolicyError as error:
            raise PolicyError(f"{error} ({self._address})") from None

    def _settle(self, options: Settings) -> None:
        """Merge the announcement with the declared options."""
        announced = self._announced
        if announced is None:
            layout, embodiment = self._declared(options)
            # A server that announces nothing is identified by its metadata beside the declared revision.
            digest = hashlib.sha256(pack(self._pool.metadata)).hexdigest()[:8]
            self.name, self.revision = "openpi", f"{options.revision} metadata-{digest}"
            self.horizon = options.horizon
            reads_images, reads_state = True, True
        else:
            self._refuse_contradictions(options, announced)
            layout, embodiment = find_layout(announced.layout), announced.embodiment
            self.name, self.revision = announced.name, announced.identity
            self.horizon, self.n_action_steps = announced.horizon, announced.n_action_steps
            reads_images, reads_state = announced.reads_images, announced.reads_state
            self.table_note = announced.table_note
        size, fit = options.image_size or layout.image_size, options.image_fit or layout.image_fit
        self._layout = replace(layout, image_size=size, image_fit=fit)
        self._embodiment, self.embodiments = embodiment, (embodiment,)
        self.reads_state = reads_state
        self.needs = Needs(images=reads_images)

    def _declared(self, options: Settings) -> tuple[ObservationLayout, Embodiment]:
        missing = [name for name in ("layout", "convention", "horizon", "revision") if getattr(options, name) is None]
        if missing or options.layout is None or options.convention is None:
            examples = {
                "layout": f"layout=NAME ({', '.join(LAYOUTS)})",
                "convention": "convention=EMBODIMENT (such as libero_panda, or a JSON file)",
                "horizon": "horizon=STEPS",
                "revision": "revision=NAME (of the checkpoint, so that a run is not resumed with another)",
            }
            raise PolicyError(
                f"the policy server at {self._address} does not say what its numbers mean, or whose they are; declare it: "
                f"--policy-options {' '.join(examples[name] for name in missing)}"
            )
        return find_layout(options.layout), find_embodiment(options.convention)

    def _refuse_contradictions(self, options: Settings, announced: Announcement) -> None:
        for name in ("layout", "horizon", "revision"):
            declared, served = getattr(options, name), getattr(announced, name)
            if declared is not None and declared != served:
                raise PolicyError(
                    f"the policy server at {self._address} announces {name} {served}, and {name}={declared} was declared; leave it out"
                )
        if options.convention is not None:
            found = differences(find_embodiment(options.convention), announced.embodiment, announced.reads_state)
            if found:
                raise PolicyError(
                    f"the policy server at {self._address} announces the conventions of {announced.embodiment.name}, and "
                    f"convention={options.convention} was declared, which differs: {found[0].replace('the env', 'the server')}"
                )

    def _message(self, request: Request) -> dict[str, Any]:
        message = self._layout.message(request.observation, self.needs.images)
        if self._announced is not None:
            sent = (request.key, request.env, request.chunk, request.seed, request.n_action_steps)
            message |= msgspec.to_builtins(OwnKeys(self._client, *sent))
        return message

    def _actions(self, answer: bytes) -> np.ndarray:
        try:
            value = unpack(answer)
        except BadMessageError as error:
            raise PolicyError(f"the policy server at {self._address} answered with {error}") from None
        actions = value.get("actions") if isinstance(value, dict) else None
        if not isinstance(actions, np.ndarray):
            raise PolicyError(
                f"the policy server at {self._address} answered without an array 'actions'; is it an openpi server?"
            )
        return actions
