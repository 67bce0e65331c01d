"""From a client's message to a request: whose it is, which chunk of an episode, and which seed its draws follow from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..envs.errors import BadMessageError
from .announcement import CHUNK, CLIENT, EPISODE, EXECUTE, SEED, SLOT, Announcement
from .api import Request, policy_seed
from .openpi_layouts import ObservationLayout

#: Slots that a client may have.
_MOST_SLOTS = 4096

#: Seconds that the slots of a client without a connection are kept for it: it may have lost one and send its request again.
GRACE_SECONDS = 60.0

#: Clients without a connection whose slots are kept; of more, those that left first are forgotten.
MOST_ABSENT = 64

#: What the reader's own names of clients of ours begin with.
_OURS = "client "


@dataclass
class _Client:
    """One client: its connections, and the policy's number of each of its slots."""

    connections: set[int] = field(default_factory=set)
    slots: dict[int, int] = field(default_factory=dict)


class RequestReader:
    """Reads requests, and keeps the policy's slot numbers apart for clients that all count their own from 0.

    A client of ours says which slot and chunk a request is about, and with which seed to draw; it may use several connections, and
    come back after it lost the last one. Any other client is one slot a connection: its first request is chunk 0, and its seeds follow
    from the server's seed and both numbers.

    Args:
        announcement: What is served.
        layout: Under which keys observations come.
        seed: What the draws for clients follow from that send no seeds.
        execute: Rows for a client that does not say how many it wants.
        clock: Says the time in seconds.
        freed: Is told the policy's number of each slot that nobody has any more.
    """

    def __init__(
        self,
        announcement: Announcement,
        layout: ObservationLayout,
        seed: int,
        execute: int,
        clock: Callable[[], float] = time.monotonic,
        freed: Callable[[int], None] = lambda slot: None,
    ) -> None:
        self._announcement, self._layout = announcement, layout
        self._seed, self._execute = seed, execute
        self._clock = clock
        self._freed = freed
        self._clients: dict[str, _Client] = {}
        self._left: dict[str, float] = {}
        """Clients without a connection, in the order in which they left, and when."""
        self._client_of: dict[int, str] = {}
        self._counts: dict[int, int] = {}
        self._free: list[int] = []
        self._slot_count = 0

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
            who, key = _text(message, CLIENT, 64), _text(message, EPISODE, 1000)
            slot, chunk = _whole(message, SLOT, _MOST_SLOTS), _whole(message, CHUNK, 10**9)
            seed, execute = _whole(message, SEED, 2**64), _whole(message, EXECUTE, 1000)
            number = self._slot_of(f"{_OURS}{who}", slot, chunk, connection, key)
        else:
            key, chunk, execute = f"connection/{connection}", count, self._execute
            seed = policy_seed(self._seed, key, chunk)
            number = self._slot_of(f"connection {connection}", 0, chunk, connection, key)
        self._counts[connection] = count + 1
        return Request(number, key, chunk, seed, observation, embodiment, max(execute, 1))

    def forget(self, connection: int) -> None:
        """The connection is over; the slots of a client without another one are free, those of one of ours after a while."""
        self._counts.pop(connection, None)
        who = self._client_of.pop(connection, None)
        if who is None:
            return
        client = self._clients[who]
        client.connections.discard(connection)
        if client.connections:
            return
        if who.startswith(_OURS):
            self._left[who] = self._clock()
            self._free_absent()
        else:
            self._free_slots(who)

    def _free_absent(self) -> None:
        """Forget the clients that have been away for too long, and of too many those that left first."""
        now = self._clock()
        while self._left:
            who, left = next(iter(self._left.items()))
            if len(self._left) <= MOST_ABSENT and now - left < GRACE_SECONDS:
                return
            del self._left[who]
            self._free_slots(who)

    def _free_slots(self, who: str) -> None:
        for number in self._clients.pop(who).slots.values():
            self._free.append(number)
            self._freed(number)

    def _slot_of(self, who: str, slot: int, chunk: int, connection: int, key: str) -> int:
        """The policy's number for a client's slot."""
        if self._client_of.setdefault(connection, who) != who:
            raise BadMessageError(f"{CLIENT!r} changed within a connection; keep to one")
        self._free_absent()
        self._left.pop(who, None)
        client = self._clients.setdefault(who, _Client())
        client.connections.add(connection)
        if slot not in client.slots:
            if chunk:  # the policy has no notes on it, or another episode's
                raise BadMessageError(
                    f"{key} is at chunk {chunk}, but its beginning was not seen here (was the server restarted?)"
                )
            if self._free:
                client.slots[slot] = self._free.pop()
            else:
                client.slots[slot] = self._slot_count
                self._slot_count += 1
        return client.slots[slot]


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
