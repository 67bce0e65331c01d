"""Access to a server of ours: with a token. On the loopback interface each user has an own one, in a file that only they can read."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from ipaddress import ip_address
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from websockets.datastructures import Headers

from .errors import VlarigError
from .home import home

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


def required_token(host: str, variable: Optional[str], file: Optional[Path]) -> str:
    """The token that a server requires: the one in the place that is named; without one the user's own, on the loopback interface.

    Args:
        host: Address that the server listens on; on any but the loopback interface's the token is empty where no place is named.
        variable: Environment variable that holds it.
        file: File that holds it.
    """
    if variable is not None and file is not None:
        raise VlarigError("--token-env and --token-file both name a token; give one of them")
    if file is not None:
        return token_in(file)
    if variable is not None:
        place = f"the environment variable {variable}"
        return _not_empty(checked_token(os.environ.get(variable, ""), place), place)
    return own_token() if is_loopback(host) else ""


def shown_token(address: str, variable: str, file: Optional[Path]) -> str:
    """The token that a client shows to the server at ``address``, ``ws://HOST:PORT``; empty for none.

    It is the file's, else the environment variable's, else on this machine the user's own, where a server has made one.
    """
    if file is not None:
        return token_in(file)
    token = checked_token(os.environ.get(variable, ""), f"the environment variable {variable}")
    if token or not is_loopback(urlsplit(address).hostname or "") or not _own_file().exists():
        return token
    return token_in(_own_file())


def own_token() -> str:
    """The user's own token; made with the first call."""
    path = _own_file()
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise VlarigError(
            f"no token can be kept in {path} ({error.strerror or error}); give --token-file, or set VLARIG_HOME"
        ) from None
    return token_in(path)


def _own_file() -> Path:
    return home() / "token"


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"token-{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{secrets.token_urlsafe(32)}\n")
    with contextlib.suppress(FileExistsError):  # another process was quicker
        os.link(draft, path)
    draft.unlink()


def token_in(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise VlarigError(f"the token file {file} cannot be read ({reason}); give the path of a text file") from None
    return _not_empty(checked_token(text, f"the file {file}"), f"the file {file}")


def checked_token(token: str, place: str) -> str:
    """``token``, which was found at ``place``, without white space around it; empty for none."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise VlarigError(f"{place} holds a token of more than one line of printable ASCII characters; put a plain one there")
    return token


def _not_empty(token: str, place: str) -> str:
    if not token:
        raise VlarigError(f"{place} holds no token; put a secret there")
    return token
