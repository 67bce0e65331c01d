"""From a client's message to a request: its client, its chunk of an episode, and the seed of its draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..envs.errors import BadMessageError
from .announcement import CHUNK, CLIENT, ENV, EPISODE, N_ACTION_STEPS, SEED, Announcement
from .api import Request, policy_seed
from .openpi_layouts import ObservationLayout

#: Envs that a client may have.
_MOST_ENVS = 4096

#: Seconds that the envs of a client without a connection are kept for it: it may have lost one and send its request again.
GRACE_SECONDS = 60.0

#: Clients without a connection whose envs are kept; of more, those that left first are forgotten.
MOST_ABSENT = 64

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
        seed: Base of the draws for clients that send no seeds.
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
        self._env_count = 0

    def read(self, message: Mapping[str, Any], connection: int) -> Request:
        """The request in ``message``, which came over that connection.

        Raises:
            BadMessageError: A key is missing or holds something else than it should.
        """
        announced = self._announcement
        embodiment = announced.embodiment
        observation = self._layout.observation(message, embodiment, announced.reads_images, announced.reads_state)
        count = self._counts.get(connection, 0)
        if CLIENT in message:
            name, key = _text(message, CLIENT, 64), _text(message, EPISODE, 1000)
            env, chunk = _whole(message, ENV, _MOST_ENVS), _whole(message, CHUNK, 10**9)
            seed, n_action_steps = _whole(message, SEED, 2**64), _whole(message, N_ACTION_STEPS, 1000)
            number = self._env_of(f"{_OURS}{name}", env, chunk, connection, key)
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
        """Forget the clients that have been away for too long, and of too many those that left first."""
        now = self._clock()
        while self._left:
            name, left = next(iter(self._left.items()))
            if len(self._left) <= MOST_ABSENT and now - left < GRACE_SECONDS:
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
            if self._free:
                client.envs[env] = self._free.pop()
            else:
                client.envs[env] = self._env_count
                self._env_count += 1
        return client.envs[env]


def _text(message: Mapping[str, Any], key: str, most: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise BadMessageError(f"{key!r} has to be a text of at most {most} characters")
    return value


def _whole(message: Mapping[str, Any], key: str, limit: int) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value < limit:
        raise BadMessageError(f"{key!r} has to be a whole number from 0 to {limit - 1}; got {str(value)[:40]!r}")
    return value
