"""Batches of requests: slots ask one by one, the policy answers many at a time in a thread of its own.

The members of a pool answer side by side. An episode keeps to one of them, since a policy may keep notes by slot; where a member is
gone, the episodes that it had are lost and are begun again, at no charge to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Self

from .api import Policy, PolicyError, PolicyLost, Request
from .calls import horizon_for
from .load import MOST_COMPARED, Load, Rounding, SizeLoad, side_by_side
from .member_queue import Answer, MemberQueue, Waiting
from .pool import PolicyPool
from .replies import execute_for

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
    """Collects requests and has the policy, or its members side by side, answer them. Use it as an asynchronous context manager."""

    def __init__(self, policy: Policy, batching: Batching) -> None:
        self._batching = batching
        count = len(policy.members) if isinstance(policy, PolicyPool) else 1
        self._queues = [MemberQueue(policy, number, batching.alone_on_failure) for number in range(count)]
        self._working = list(self._queues)
        """Those that are not given up."""
        self._stateful = policy.stateful
        self._queue_of: dict[int, MemberQueue] = {}
        """The queue of each slot's episode."""
        self._lost: dict[int, str] = {}
        """Slots whose episode was lost, until they begin another one, and how it came."""
        self._losses: Counter[str] = Counter()
        self._given_up: Exception | None = None
        self.playing = 0
        """How many may still ask; set by the callers, so that a batch does not wait for those that will not."""

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._servers = [asyncio.create_task(self._serve(queue)) for queue in self._queues]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; a batch that a policy in this process is working on is awaited."""
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*(queue.close() for queue in self._queues))

    @property
    def answers(self) -> bool:
        """Whether a request that comes now will be answered."""
        return self._given_up is None and not all(server.done() for server in self._servers)

    @property
    def rounding(self) -> Rounding:
        """What batches did to the policy's answers."""
        measured = [queue.rounding for queue in self._queues]
        return Rounding(sum(each.compared for each in measured), max(each.largest for each in measured))

    async def ask(self, request: Request) -> Answer:
        """The policy's answer.

        Raises:
            PolicyError: The policy raised, or its reply is not what the request asked for.
            PolicyLost: The member that had the episode is gone, and its notes with it; begin the episode again.
            VlarigError: Members are lost again and again, and none is left.
        """
        waiting = Waiting(request, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._place(waiting)
        return await waiting.answer

    def forget(self, slot: int) -> None:
        """Nobody asks for this slot's episode any more, so that it no longer counts as its member's work."""
        self._queue_of.pop(slot, None)
        self._lost.pop(slot, None)

    def load(self) -> Load:
        """What the policy was asked so far; its seconds with those of batches that are under way, of members on average."""
        return side_by_side([queue.load() for queue in self._queues])

    def _place(self, waiting: Waiting) -> None:
        """Let a request wait where its episode is played; a new episode goes where the fewest are."""
        slot = waiting.request.slot
        if waiting.request.chunk == 0:
            self.forget(slot)
        if self._given_up is not None:
            waiting.settle(self._given_up)
        elif slot in self._lost:
            waiting.settle(PolicyLost(self._lost[slot]))
        else:
            if slot not in self._queue_of:
                self._queue_of[slot] = self._least_busy()
            self._queue_of[slot].put(waiting)

    def _least_busy(self) -> MemberQueue:
        episodes = Counter(self._queue_of.values())
        return min(self._working, key=lambda queue: (not queue.alive, episodes[queue], queue.number))

    async def _serve(self, queue: MemberQueue) -> None:
        while queue in self._working:
            await self._gather(queue)
            size = min(len(queue.pending), self._batching.most)
            batch = [queue.pending.popleft() for _ in range(size)]
            try:
                await queue.answer(batch)
            except PolicyLost as loss:
                self._lose(queue, batch, str(loss))
                await self._revive(queue)
            except Exception as error:  # a defect of ours, or no thread to be had: no request may be left without an answer
                for waiting in batch:
                    waiting.settle(error)

    async def _gather(self, queue: MemberQueue) -> None:
        """Return when a batch should go: it is full, nobody else could join, or it has waited long enough."""
        while not queue.pending:
            queue.arrived.clear()
            await queue.arrived.wait()
        deadline = time.monotonic() + self._batching.wait_seconds
        while len(queue.pending) < min(self._batching.most, math.ceil(self.playing / len(self._working))):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            queue.arrived.clear()
            try:
                await asyncio.wait_for(queue.arrived.wait(), remaining)
            except TimeoutError:
                return

    def _lose(self, queue: MemberQueue, batch: list[Waiting], story: str) -> None:
        """Deal with a member that is gone: what it knew is lost; requests that need nothing of that wait for another member."""
        queue.alive = False
        for slot in [slot for slot, home in self._queue_of.items() if home is queue]:
            del self._queue_of[slot]
            if self._stateful:
                self._lost[slot] = story
        for waiting in batch:
            key = waiting.request.key
            self._losses[key] += 1
            if self._losses[key] > MOST_LOSSES:
                waiting.settle(PolicyError(f"{story}; that happened {self._losses[key]} times while it acted for {key}"))
        left = [waiting for waiting in (*batch, *queue.pending) if not waiting.answer.done()]
        queue.pending.clear()
        for waiting in left:
            self._place(waiting)

    def _relieve(self) -> None:
        """Take what waits for members that are gone, all of it for episodes that no member has begun, to those that are there."""
        for queue in self._working:
            if not queue.alive:
                left, queue.pending = list(queue.pending), deque()
                for waiting in left:
                    self._queue_of.pop(waiting.request.slot, None)
                    self._place(waiting)

    async def _revive(self, queue: MemberQueue) -> None:
        """Bring a member back; where that fails the others go on without it, and after the last of them every request fails."""
        try:
            await queue.revive()
            queue.alive = True
            self._relieve()
        except Exception as error:
            self._working.remove(queue)
            if self._working:
                logger.error("%s; %d of %d replicas go on", error, len(self._working), len(self._queues))
            else:
                self._given_up = error
            self._lose(queue, [], str(error))
