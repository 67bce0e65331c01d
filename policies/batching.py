"""Batches of requests: slots ask one by one, the policy answers many at a time in a thread of its own.

Where a policy has replicas they answer side by side. An episode keeps to one of them, since a policy may keep notes by slot; where a
replica dies, the episodes that it had are lost and are begun again, at no charge to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from .api import Policy, PolicyError, PolicyLost, Request
from .calls import horizon_for
from .load import MOST_COMPARED, Load, Rounding, SizeLoad, side_by_side
from .replies import execute_for
from .station import Answer, Asked, Station

__all__ = [
    "MOST_COMPARED",
    "Answer",
    "Batcher",
    "Batching",
    "Load",
    "Rounding",
    "SizeLoad",
    "execute_for",
    "horizon_for",
]

#: How often a replica may die while it acts for one episode before that episode is held to kill it.
MOST_LOSSES = 10


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        most: Most requests in a batch.
        wait_seconds: How long a batch that is not full waits for more; it never waits when nobody else could join. At 0,
            whatever arrived while the policy was busy makes the next batch.
        alone_on_failure: Ask the policy again, one request at a time, where it fails on a batch, so that a failure is told only to
            whom it concerns. (A sweep ends at the first one anyhow.)
    """

    most: int
    wait_seconds: float = 0.0
    alone_on_failure: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"a batch of at most {self.most} requests; expected 1 or more")


class Batcher:
    """Collects requests and has the policy, or its replicas side by side, answer them. Use it as an asynchronous context manager."""

    def __init__(self, policy: Policy, batching: Batching) -> None:
        self._policy = policy
        self._batching = batching
        replicas = getattr(policy, "replicas", None) or [policy]
        self._stations = [Station(each, number, batching.alone_on_failure) for number, each in enumerate(replicas)]
        self._working = list(self._stations)
        """Those that are not given up."""
        self._keeps_notes = getattr(policy, "keeps_notes", True)
        self._station_of: dict[int, Station] = {}
        """The station of each slot's episode."""
        self._lost: dict[int, str] = {}
        """Slots whose episode was lost, until they begin another one, and how it came."""
        self._losses: Counter[str] = Counter()
        self._given_up: Exception | None = None
        self.playing = 0
        """How many may still ask; kept by whoever asks, so that a batch does not wait for those that will not."""

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._servers = [asyncio.create_task(self._serve(station)) for station in self._stations]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; a batch that a policy in this process is working on is awaited."""
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*(station.close() for station in self._stations))

    @property
    def answers(self) -> bool:
        """Whether who asks now will be answered."""
        return self._given_up is None and not all(server.done() for server in self._servers)

    @property
    def rounding(self) -> Rounding:
        """What batches did to the policy's answers."""
        measured = [station.rounding for station in self._stations]
        return Rounding(sum(each.compared for each in measured), max(each.largest for each in measured))

    async def ask(self, request: Request) -> Answer:
        """The policy's answer.

        Raises:
            PolicyError: The policy raised, or its reply is not what the request asked for.
            PolicyLost: The replica that had the episode is gone, and its notes with it; begin the episode again.
            VlarigError: Replicas die again and again, and none is left.
        """
        asked = Asked(request, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._place(asked)
        return await asked.answered

    def forget(self, slot: int) -> None:
        """Nobody asks for this slot's episode any more, so that it no longer counts as work of its replica's."""
        self._station_of.pop(slot, None)
        self._lost.pop(slot, None)

    def load(self) -> Load:
        """What the policy was asked so far; its seconds with those of batches that are under way, of replicas on average."""
        return side_by_side([station.load() for station in self._stations])

    def _place(self, asked: Asked) -> None:
        """Let a request wait where its episode is played; a new episode goes where the fewest are."""
        slot = asked.request.slot
        if asked.request.chunk == 0:
            self.forget(slot)
        if self._given_up is not None:
            asked.settle(self._given_up)
        elif slot in self._lost:
            asked.settle(PolicyLost(self._lost[slot]))
        else:
            if slot not in self._station_of:
                self._station_of[slot] = self._least_busy()
            self._station_of[slot].put(asked)

    def _least_busy(self) -> Station:
        episodes = Counter(self._station_of.values())
        return min(self._working, key=lambda station: (not station.standing, episodes[station], station.number))

    async def _serve(self, station: Station) -> None:
        while station in self._working:
            await self._gather(station)
            size = min(len(station.pending), self._batching.most)
            batch = [station.pending.popleft() for _ in range(size)]
            try:
                await station.answer(batch)
            except PolicyLost as loss:
                self._lose(station, batch, str(loss))
                await self._revive(station)
            except Exception as error:  # a defect of ours, or no thread to be had: no request may be left without an answer
                for asked in batch:
                    asked.settle(error)

    async def _gather(self, station: Station) -> None:
        """Return when a batch should go: it is full, nobody else could join, or it has waited long enough."""
        while not station.pending:
            station.arrived.clear()
            await station.arrived.wait()
        deadline = time.monotonic() + self._batching.wait_seconds
        while len(station.pending) < min(self._batching.most, math.ceil(self.playing / len(self._working))):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            station.arrived.clear()
            try:
                await asyncio.wait_for(station.arrived.wait(), remaining)
            except TimeoutError:
                return

    def _lose(self, station: Station, batch: list[Asked], story: str) -> None:
        """Deal with a replica's death: what it knew is lost, and what needs nothing of that is asked again, of whoever stands."""
        station.standing = False
        for slot in [slot for slot, home in self._station_of.items() if home is station]:
            del self._station_of[slot]
            if self._keeps_notes:
                self._lost[slot] = story
        for asked in batch:
            key = asked.request.key
            self._losses[key] += 1
            if self._losses[key] > MOST_LOSSES:
                asked.settle(PolicyError(f"{story}; that happened {self._losses[key]} times while it acted for {key}"))
        left = [asked for asked in (*batch, *station.pending) if not asked.answered.done()]
        station.pending.clear()
        for asked in left:
            self._place(asked)

    async def _revive(self, station: Station) -> None:
        """Have a station's policy started anew; where that fails the others go on without it, and after the last of them nobody."""
        try:
            await station.revive()
            station.standing = True
        except Exception as error:
            self._working.remove(station)
            if self._working:
                logger.error("%s; %d of %d replicas go on", error, len(self._working), len(self._stations))
            else:
                self._given_up = error
            self._lose(station, [], str(error))
