"""What a sim server and whoever starts it agree on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from .liveness import Keepalive

#: Slots of a client. Each is an env in the simulator's memory.
MOST_SLOTS = 1024


@dataclass(frozen=True)
class ServerConfig:
    """What a sim server is told on its standard input.

    Attributes:
        socket: Name of the Unix socket to listen on.
        token: Secret that a client must show.
        adapter: The adapter, as ``module:Class``.
        packages: Modules to take from the driver: name to file.
        load_seconds: Longest that the simulator may take to load and build its first env.
        start_seconds: Longest that the start of an episode may take.
        row_seconds: Longest that one row of a chunk may take.
        memory_bytes: Most memory that the simulator may take; no bound when ``None``.
        ping_seconds: Between two pings of a client.
        pong_seconds: Longest that a client may take to answer one.
        files: The adapter's files, each with the SHA-256 that it must have.
    """

    socket: str
    token: str
    adapter: str
    packages: dict[str, str]
    load_seconds: float
    start_seconds: float
    row_seconds: float
    memory_bytes: Optional[int]
    ping_seconds: float
    pong_seconds: float
    files: dict[str, str] = field(default_factory=dict)

    @property
    def keepalive(self) -> Keepalive:
        """How clients are watched."""
        return Keepalive(self.ping_seconds, self.pong_seconds)
