"""Batches of requests: envs send them one by one, the policy answers many at a time in a thread of its own.

The members of a pool answer side by side. An episode keeps to one of them, since a policy may keep a state for each env. Where a member
is lost, its requests go to another; those of a policy that does keep a state fail with ``PolicyLost``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from .api import Policy, PolicyError, PolicyLost, Request
from .member_queue import Answer, Load, MemberQueue, Rounding, Waiting, side_by_side
from .pool import PolicyPool

#: How many members may die on one request before it counts as the cause.
MOST_DEATHS = 10


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        most: Most requests in a batch.
        wait_seconds: How long a batch that is not full waits for more; it never waits when no other env could join. At 0,
            whatever arrived while the policy was busy makes the next batch.
        cohort: Envs of a batch that always has the same envs: the first so many by their numbers make one batch, the next another. A
            neural policy's rounding then does not depend on timing. ``None``: a batch has the requests that come first.
        alone_on_failure: Repeat a batch on which the policy fails, one request at a time, so that only the requests that fail get
            the error. (A sweep ends at the first one anyhow.)
    """

    most: int
    wait_seconds: float = 0.0
    cohort: int | None = None
    alone_on_failure: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"a batch of at most {self.most} requests; expected 1 or more")
        if self.cohort is not None and not 1 <= self.cohort <= self.most:
            raise ValueError(f"a cohort of {self.cohort} envs in batches of at most {self.most}; expected 1 to {self.most}")


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
        """The queue of each env's episode."""
        self._lost: dict[int, str] = {}
        """Envs whose episode was lost, until they begin another one, and the reason."""
        self._given_up: Exception | None = None
        self._playing = 0

    async def __aenter__(self) -> Self:
        self._servers = [asyncio.create_task(self._serve(queue)) for queue in self._queues]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; a batch that a policy in this process is working on is awaited."""
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*(queue.close() for queue in self._queues))

    @property
    def playing(self) -> int:
        """How many envs may still send a request; set by the callers, so that a batch does not wait for the others."""
        return self._playing

    @playing.setter
    def playing(self, envs: int) -> None:
        self._playing = envs
        for queue in self._queues:
            queue.arrived.set()

    @contextlib.contextmanager
    def one_more_env(self) -> Iterator[None]:
        """One more env may send a request in this context."""
        self.playing += 1
        try:
            yield
        finally:
            self.playing -= 1

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
        """The policy's answer; where a member is lost that has no state of the episode, another one's.

        Raises:
            PolicyLost: The member that had the episode is lost, and its state with it; begin the episode again.
        """
        deaths = 0
        while True:
            waiting = Waiting(request, time.perf_counter(), asyncio.get_running_loop().create_future())
            self._place(waiting)
            try:
                return await waiting.answer
            except PolicyLost as loss:
                if self._stateful and request.chunk:
                    raise
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise PolicyError(f"{loss}; that happened {deaths} times while it acted for {request.key}") from None

    def forget(self, env: int) -> None:
        """Drop the episode of this env from its member's work; it sends no more requests."""
        self._queue_of.pop(env, None)
        self._lost.pop(env, None)

    def load(self) -> Load:
        """The requests so far; the seconds include those of batches under way, on average over members."""
        return side_by_side([queue.load() for queue in self._queues])

    def _place(self, waiting: Waiting) -> None:
        """Let a request wait where its episode is played; a new episode goes where the fewest are."""
        env = waiting.request.env
        if waiting.request.chunk == 0:
            self.forget(env)
        if self._given_up is not None:
            waiting.settle(self._given_up)
        elif env in self._lost:
            waiting.settle(PolicyLost(self._lost[env]))
        else:
            if env not in self._queue_of:
                cohort = self._batching.cohort
                own = None if cohort is None else self._working[env // cohort % len(self._working)]
                self._queue_of[env] = own or self._least_busy()
            self._queue_of[env].put(waiting)

    def _least_busy(self) -> MemberQueue:
        episodes = Counter(self._queue_of.values())
        return min(self._working, key=lambda queue: (not queue.alive, episodes[queue], queue.number))

    async def _serve(self, queue: MemberQueue) -> None:
        while queue in self._working:
            batch = await (
                self._gather(queue) if self._batching.cohort is None else self._gather_cohort(queue, self._batching.cohort)
            )
            try:
                await queue.answer(batch)
            except PolicyLost as loss:
                self._lose(queue, batch, str(loss))
                await self._revive(queue)
            except Exception as error:  # a defect of ours, or no thread is available: no request may be left without an answer
                for waiting in batch:
                    waiting.settle(error)

    async def _gather_cohort(self, queue: MemberQueue, size: int) -> list[Waiting]:
        """The next batch: a cohort that is there whole or, where nothing else can come, what there is of one."""
        while True:
            cohorts: dict[int, list[Waiting]] = {}
            for waiting in queue.pending:
                cohorts.setdefault(waiting.request.env // size, []).append(waiting)
            whole = [each for each in cohorts.values() if len(each) == size]
            if whole or (cohorts and sum(len(each.pending) for each in self._queues) >= self.playing):
                batch = sorted((whole or [*cohorts.values()])[0], key=lambda waiting: waiting.request.env)
                for waiting in batch:
                    queue.pending.remove(waiting)
                return batch
            queue.arrived.clear()
            await queue.arrived.wait()

    async def _gather(self, queue: MemberQueue) -> list[Waiting]:
        """The next batch, when it should go: it is full, no other env could join, or it has waited long enough."""
        while not queue.pending:
            queue.arrived.clear()
            await queue.arrived.wait()
        deadline = time.monotonic() + self._batching.wait_seconds
        while len(queue.pending) < min(self._batching.most, math.ceil(self.playing / len(self._working))):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            queue.arrived.clear()
            try:
                await asyncio.wait_for(queue.arrived.wait(), remaining)
            except TimeoutError:
                break
        size = min(len(queue.pending), self._batching.most)
        return [queue.pending.popleft() for _ in range(size)]

    def _lose(self, queue: MemberQueue, batch: list[Waiting], reason: str) -> None:
        """Drop a lost member and its state; what it was working on is lost, and what waited for it waits for another member."""
        queue.alive = False
        for env in [env for env, home in self._queue_of.items() if home is queue]:
            del self._queue_of[env]
            if self._stateful:
                self._lost[env] = reason
        for waiting in batch:
            waiting.settle(PolicyLost(reason))
        left, queue.pending = list(queue.pending), deque()
        for waiting in left:
            self._place(waiting)

    def _relieve(self) -> None:
        """Move the requests that wait for lost members, all of them of episodes that no member has begun, to members that are alive."""
        for queue in self._working:
            if not queue.alive:
                left, queue.pending = list(queue.pending), deque()
                for waiting in left:
                    self._queue_of.pop(waiting.request.env, None)
                    self._place(waiting)

    async def _revive(self, queue: MemberQueue) -> None:
        """Restart a member; where that fails the others go on without it, and after the last of them every request fails."""
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
