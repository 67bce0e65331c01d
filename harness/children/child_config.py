"""What a child is started with, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...envs.wire import MAX_MESSAGE_BYTES


class ChildDied(Exception):
    """A child died, and its state is lost.

    Attributes:
        kind: The failure: ``crash``, ``hang``, ``memory`` or ``lost`` of :mod:`vlarig.envs.messages`.
        running: Number of the request that was running; 0 for none.
    """

    def __init__(self, kind: str, reason: str, running: int = 0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.running = running


@dataclass(frozen=True)
class ChildConfig:
    """How a child is started and watched.

    Attributes:
        command: Its command line; the program by its full path.
        environment: Its environment variables.
        greeting: One line of JSON that it reads first.
        load_seconds: Timeout of its first frame.
        answer_seconds: Timeout of a request that has no patience of its own.
        output: Called with its output.
        memory_bytes: Most memory that it may take; no bound when ``None``.
        files: Open files that it inherits, by the environment variable that gets the file's path.
        most_bytes: Largest body of a frame.
        name: Its name in messages.
    """

    command: list[str]
    environment: Mapping[str, str]
    greeting: Mapping[str, Any]
    load_seconds: float
    output: Callable[[bytes], None]
    memory_bytes: int | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    most_bytes: int = MAX_MESSAGE_BYTES
    name: str = "the simulator"
    answer_seconds: float = 60.0

    @property
    def process(self) -> str:
        """Its process's name in messages."""
        return self.name if self.name == "it" else f"{self.name}'s process"


def how_it_ended(status: int | None) -> str:
    """An exit status in words: ``exited with status 3``, ``was ended by SIGKILL``."""
    if status is None or status >= 0:
        return f"exited with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"
