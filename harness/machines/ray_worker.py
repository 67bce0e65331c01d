"""What runs on a node of a Ray cluster: an env server with a single worker, as an actor that Ray places and supervises."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from ...envs.background import BackgroundLoop
from ...envs.home import home
from ...envs.tls import server_context
from .env_server import EnvServer, EnvServerConfig

#: Ray's own variables for encryption (its documentation, "TLS authentication"): where it is on, it is on here, with the same files.
USE_TLS, TLS_CERTIFICATE, TLS_KEY, TLS_AUTHORITY = (
    "RAY_USE_TLS",
    "RAY_TLS_SERVER_CERT",
    "RAY_TLS_SERVER_KEY",
    "RAY_TLS_CA_CERT",
)


class RayWorker:
    """An env server for one worker. It lives as long as its actor, and requires a token that only its sweep has.

    Args:
        suite: Name of the suite that it lends.
        token: The secret.
    """

    def __init__(self, suite: str, token: str) -> None:
        import ray.util

        self._host = ray.util.get_node_ip_address()
        self._encryption = _encryption()
        config = EnvServerConfig(
            host=self._host,
            port=0,
            token=token,
            encryption=self._encryption,
            suites=(suite,),
            workers=1,
            logs=home() / "logs",
        )
        self._loop = BackgroundLoop("vlarig-envs")
        self._server = self._loop.run(self._open(config))

    def address(self) -> str:
        """The env server's address."""
        scheme = "ws" if self._encryption is None else "wss"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._server.port}"

    async def _open(self, config: EnvServerConfig) -> EnvServer:
        return await EnvServer(config).__aenter__()


def authority() -> Path | None:
    """File with the authorities that a client of these servers trusts; ``None`` where Ray does not encrypt."""
    file = os.environ.get(TLS_AUTHORITY)
    return Path(file) if file and os.environ.get(USE_TLS) == "1" else None


def _encryption() -> ssl.SSLContext | None:
    if os.environ.get(USE_TLS) != "1":
        return None
    return server_context(Path(os.environ.get(TLS_CERTIFICATE, "")), Path(os.environ.get(TLS_KEY, "")))
