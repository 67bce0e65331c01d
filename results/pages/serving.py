"""Serves a site that follows its runs, to one user of this machine alone.

The loopback interface is open to every user of the machine, who may not read the runs. So the address has a token in it, as Jupyter's
has; the browser keeps it in a cookie, and links within the site need none.
"""

from __future__ import annotations

import hmac
import io
import json
import re
import secrets
import socket
import sys
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from ...envs.errors import VlarigError
from .following import Follower

#: The only address that is served.
LOOPBACK = "127.0.0.1"

#: The host names that a browser on this machine may use. Any other web page can point its own name here (DNS rebinding).
_OWN_NAMES = (LOOPBACK, "localhost")

#: Headers of every answer.
_HEADERS = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}

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


class _Handler(SimpleHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30
    path = ""  # until a request line is read: one that is none is answered too
    extensions_map = {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".mp4": "video/mp4",
    }

    def __init__(self, request: Any, client_address: Any, server: PageServer) -> None:
        super().__init__(request, client_address, server, directory=str(server.follower.out))

    def send_head(self) -> Any:
        """Whoever has the token gets the site's present version, or one of its files, of a film the requested part."""
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in _OWN_NAMES:
            return self._answer(HTTPStatus.FORBIDDEN, b"this server answers only to 127.0.0.1 and localhost\n")
        if not self._may_look():
            return self._answer(HTTPStatus.FORBIDDEN, _CLOSED)
        path = unquote(urlsplit(self.path).path)
        try:
            if path == "/version":
                version, progress = self.server.follower.state()
                return self._answer(HTTPStatus.OK, json.dumps({"version": version, "progress": progress}).encode())
            if path.endswith(("/", ".html")):
                self.server.follower.refresh()
        except VlarigError as error:
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode(errors="replace"))
        return self._part() if "Range" in self.headers else super().send_head()

    def list_directory(self, path: Any) -> Any:
        return self._answer(HTTPStatus.NOT_FOUND, b"there is nothing here\n")

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self._has_token():
            self.send_header("Set-Cookie", f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Lax")
        super().end_headers()

    def _may_look(self) -> bool:
        """Whether the request has the token, in its address or in its cookie."""
        cookies = (each.strip().partition("=") for each in (self.headers.get("Cookie") or "").split(";"))
        return self._has_token() or any(name == self.server.cookie and self._is_token(value) for name, _, value in cookies)

    def _has_token(self) -> bool:
        return any(map(self._is_token, parse_qs(urlsplit(self.path).query).get("token", [])))

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self.server.token.encode())

    def _answer(self, status: HTTPStatus, content: bytes) -> io.BytesIO:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if status != HTTPStatus.OK else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)

    def _part(self) -> BinaryIO | None:
        """The requested part of a film: browsers seek within films, and Python's server sends whole files only."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        begin, end = _wanted(self.headers.get("Range"), size)
        with path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        partial = (begin, end) != (0, size)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(path))
        if partial:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        return io.BytesIO(content)

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
