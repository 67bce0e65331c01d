"""Serves a site that follows its runs, to one user of this machine alone.

The loopback interface is open to every user of the machine, who may not read the runs. So the address has a token in it, as Jupyter's
has; the browser keeps it in a cookie, and links within the site need none.
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import re
import secrets
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...envs.errors import VlarigError
from .following import Follower

#: The only address that is served.
LOOPBACK = "127.0.0.1"

#: The host names that a browser on this machine may use. Any other web page can point its own name here (DNS rebinding).
_OWN_NAMES = (LOOPBACK, "localhost")

_PIECE = 1 << 16

_CLOSED = b"this site is private: open the address that `vlarig view` printed, with the token in it\n"


class PageServer(ThreadingHTTPServer):
    """A server on 127.0.0.1; call ``serve_forever``, and ``server_close`` at the end.

    Args:
        follower: The site to serve.
        port: The port; 0 for any that is free.

    Attributes:
        token: The token that a request must carry.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, follower: Follower, port: int) -> None:
        if not 0 <= port <= 65535:
            raise VlarigError(f"port is {port}; expected 0 to 65535, 0 for any that is free")
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise VlarigError(f"port {port} cannot be served on {LOOPBACK}: {error}; give another --port, or 0") from error
        self.follower = follower
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The site's address; the token in it is a secret."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie that keeps the token, with the port: cookies do not distinguish ports."""
        return f"vlarig-view-{self.server_address[1]}"

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Report an error, unless a browser closed the connection in the middle of an answer."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in _OWN_NAMES:
            self._answer(HTTPStatus.FORBIDDEN, b"this server answers only to 127.0.0.1 and localhost\n", "text/plain")
            return
        if not self._may_look():
            self._answer(HTTPStatus.FORBIDDEN, _CLOSED, "text/plain")
            return
        path = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        try:
            if path == "version":
                version, progress = self.server.follower.state()
                self._answer(HTTPStatus.OK, json.dumps({"version": version, "progress": progress}).encode(), "application/json")
                return
            content = self.server.follower.content(path)
        except VlarigError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode(errors="replace"), "text/plain")
            return
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND, b"there is nothing here\n", "text/plain")
        elif isinstance(content, Path):
            self._send_file(content)
        else:
            self._answer(HTTPStatus.OK, content, _type_of(path))

    do_HEAD = do_GET  # noqa: N815

    def _may_look(self) -> bool:
        """Whether the request has the token, in its address or in its cookie."""
        cookies = (each.strip().partition("=") for each in (self.headers.get("Cookie") or "").split(";"))
        return self._has_token() or any(name == self.server.cookie and self._is_token(value) for name, _, value in cookies)

    def _has_token(self) -> bool:
        return any(map(self._is_token, parse_qs(urlsplit(self.path).query).get("token", [])))

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self.server.token.encode())

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self._send_headers(len(content), kind, headers | {"Cache-Control": "no-store"})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_headers(self, length: int, kind: str, headers: dict[str, str]) -> None:
        textual = kind.startswith("text/") or kind.endswith(("json", "javascript"))
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if textual else kind)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "same-origin")
        if self._has_token():
            self.send_header("Set-Cookie", f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Lax")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _send_file(self, path: Path) -> None:
        """Send a film or an image, or the requested part of it: browsers seek within films."""
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                begin, end = _wanted(self.headers.get("Range"), size)
                partial = (begin, end) != (0, size)
                self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
                extra = {"Accept-Ranges": "bytes", "Cache-Control": "no-cache"}
                if partial:
                    extra["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
                self._send_headers(end - begin, _type_of(path.name), extra)
                if self.command == "HEAD":
                    return
                file.seek(begin)
                while begin < end and (piece := file.read(min(_PIECE, end - begin))):
                    self.wfile.write(piece)
                    begin += len(piece)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: a page sends a request every two seconds."""


def _wanted(header: str | None, size: int) -> tuple[int, int]:
    """The requested range of a file; all of it where the header has no valid range."""
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")  # no file is larger
    if found is None or size == 0 or not (found[1] or found[2]):
        return 0, size
    if not found[1]:
        return max(0, size - int(found[2])), size
    begin, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    return (begin, end) if begin < end else (0, size)


def _type_of(name: str) -> str:
    known = {"js": "text/javascript", "css": "text/css", "html": "text/html", "mp4": "video/mp4", "png": "image/png"}
    return known.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0] or "application/octet-stream"
