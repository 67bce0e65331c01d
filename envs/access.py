"""Access to a server of ours: free on the loopback interface, elsewhere with a token."""

from __future__ import annotations

import hmac
import os
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Optional, Union

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers

from .errors import VlarigError

#: Fewest characters of a token that other machines may try to guess: 16 of base64 are 96 bits.
SHORTEST_TOKEN = 16

#: A command that makes a good one, in a file that only its owner can read.
MAKE_TOKEN = "(umask 077; head -c 32 /dev/urandom | base64 > token)"  # noqa: S105


def authorization(token: str) -> dict[str, str]:
    """The HTTP headers that show ``token``; none where it is empty. The scheme is that of openpi's clients."""
    return {"Authorization": f"Api-Key {token}"} if token else {}


def may_enter(headers: Headers, token: str) -> bool:
    """Whether the headers of a request show ``token``, or none is required; takes as long for every wrong one."""
    if not token:
        return True
    shown = headers.get_all("Authorization")
    expected = authorization(token)["Authorization"].encode()
    return len(shown) == 1 and hmac.compare_digest(shown[0].encode(errors="replace"), expected)


def stranger(connection: ServerConnection) -> Optional[int]:
    """The user whose process is at the other end of a connection within this machine, if it is neither our user nor root.

    Linux lists it in ``/proc/net/tcp`` and ``tcp6`` (proc_net(5)); elsewhere, and for other machines, there is no stranger.
    """
    ends = [
        {_as_listed(ip_address(address[0]), address[1]), _as_listed(_mapped(ip_address(address[0])), address[1])}
        for address in (connection.remote_address, connection.local_address)
    ]
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for _, local, remote, _, _, _, _, user, *_ in map(str.split, lines):
            if local in ends[0] and remote in ends[1] and int(user) not in (0, os.getuid()):
                return int(user)
    return None


def _as_listed(address: Union[IPv4Address, IPv6Address], port: int) -> str:
    """An address as the kernel's tables have it: words of 32 bits in the machine's order, and the port."""
    words = struct.unpack(f">{len(address.packed) // 4}I", address.packed)
    return struct.pack(f"={len(words)}I", *words).hex().upper() + f":{port:04X}"


def _mapped(address: Union[IPv4Address, IPv6Address]) -> Union[IPv4Address, IPv6Address]:
    """An address of version 4 as a socket of version 6 has it."""
    return IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_without_token(host: str, token: str) -> None:
    """Make sure that a server that other machines reach has a secret, and one that cannot be guessed."""
    if is_loopback(host):
        return
    if not token:
        raise VlarigError(
            f"listening on {host} without a token would accept every client; give --token-file or --token-env, or --host 127.0.0.1"
        )
    if len(token) < SHORTEST_TOKEN:
        raise VlarigError(
            f"listening on {host} with a token of {len(token)} characters would accept a client that guesses it; expected "
            f"{SHORTEST_TOKEN} or more: {MAKE_TOKEN} makes one"
        )


def find_token(variable: Optional[str], file: Optional[Path]) -> str:
    """The token that a server requires, or that a client shows; empty where neither place is named.

    Args:
        variable: Environment variable that holds it.
        file: File that holds it.
    """
    if variable is not None and file is not None:
        raise VlarigError("--token-env and --token-file both name a token; give one of them")
    if file is not None:
        return token_in(file)
    if variable is None:
        return ""
    place = f"the environment variable {variable}"
    return _not_empty(checked_token(os.environ.get(variable, ""), place), place)


def token_in(file: Path) -> str:
    """The token in a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise VlarigError(f"the token file {file} cannot be read ({reason}); give the path of a text file") from None
    return _not_empty(checked_token(text, f"the file {file}"), f"the file {file}")


def checked_token(token: str, place: str) -> str:
    """``token`` without white space around it; empty for none.

    Args:
        token: What was found.
        place: Where it was found, for the sentence.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise VlarigError(f"{place} holds a token of more than one line of printable ASCII characters; put a plain one there")
    return token


def _not_empty(token: str, place: str) -> str:
    if not token:
        raise VlarigError(f"{place} holds no token; put a secret there")
    return token
