"""Other machines on which simulators run: their addresses, and connections to them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ...envs.access import authorization, is_loopback, shown_token
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import frame_of
from ...envs.messages import WIRE_VERSION, Capacity, Failure, decode
from ...envs.tls import client_context, handshake_failure
from ...envs.wire import MAX_MESSAGE_BYTES
from ..children.liveness import CLOSE_SECONDS, within
from ..children.supervisor import MachineAwayError

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
        """Whether the token and the pictures can be read on the way."""
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
                ssl=self._context(),
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

    def _context(self) -> ssl.SSLContext | None:
        return client_context(self.authority) if self.url.startswith("wss://") else None

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
