"""From a client's message to a request: its client, its chunk of an episode, and the seed of its sampling."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ...envs.errors import BadMessageError
from ..api import Request, policy_seed
from .openpi_layouts import ObservationLayout
from .wire import CLIENT, Announcement, OwnKeys

#: Seconds that the envs of a client without a connection are kept for it: it may have lost one and send its request again.
GRACE_SECONDS = 60.0

#: What the reader's own names of clients of ours begin with.
_OURS = "client "


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
