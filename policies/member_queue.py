"""The queue of one member of a pool, the thread in which it acts, and its load. A policy in this process has one of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..envs.errors import VlarigError
from .api import Policy, Reply, Request
from .calls import checked_replies, policy_code
from .pool import PolicyPool

T = TypeVar("T")

#: Seconds between two attempts to interrupt a member.
_INTERRUPT_SECONDS = 0.1


#: Answers whose rounding is measured: of the batches number 1, 2, 4, 8 and so on, so that a long run costs no more.
MOST_COMPARED = 12


@dataclass
class Rounding:
    """The effect of the batch's shape on a neural policy's answers: the same request was answered alone too.

    Attributes:
        compared: Answers that were compared.
        largest: Largest difference of a number, in the actions' own units.
    """

    compared: int = 0
    largest: float = 0.0


@dataclass
class SizeLoad:
    """Batches of about one size.

    Attributes:
        batches: How many.
        requests: Requests in them.
        seconds: Seconds that the policy was busy with them.
    """

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: SizeLoad) -> SizeLoad:
        return SizeLoad(self.batches + other.batches, self.requests + other.requests, self.seconds + other.seconds)


@dataclass
class Load:
    """A policy's requests, and how long they took; loads add up.

    Attributes:
        batches: Batches that were answered.
        requests: Requests in them.
        seconds: Seconds that the policy was busy.
        queued: Seconds that requests waited before their batch began, all together.
        held_back: Batches that left requests waiting because they were full.
        first: Seconds of the first batch, in which a policy may compile or load.
        sizes: The other batches by size, rounded up to a power of two.
    """

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0
    queued: float = 0.0
    held_back: int = 0
    first: float = 0.0
    sizes: dict[int, SizeLoad] = field(default_factory=dict)

    def add(self, requests: int, seconds: float) -> None:
        """Count a batch of ``requests`` that kept the policy busy for ``seconds``."""
        self.batches += 1
        self.requests += requests
        self.seconds += seconds
        if self.batches == 1:
            self.first = seconds
            return
        size = 1 << (requests - 1).bit_length()
        self.sizes[size] = self.sizes.get(size, SizeLoad()) + SizeLoad(1, requests, seconds)

    def __add__(self, other: Load) -> Load:
        numbers = {
            each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self) if each.name != "sizes"
        }
        both = sorted(self.sizes.keys() | other.sizes.keys())
        sizes = {size: self.sizes.get(size, SizeLoad()) + other.sizes.get(size, SizeLoad()) for size in both}
        return Load(**numbers, sizes=sizes)


def side_by_side(loads: Sequence[Load]) -> Load:
    """The load of replicas that answer side by side, as if of one policy.

    Its requests are the sum of theirs; its busy seconds are their mean, so that it is busy all the time where they all are.
    """
    whole, count = sum(loads[1:], loads[0]), len(loads)
    sizes = {size: replace(each, seconds=each.seconds / count) for size, each in whole.sizes.items()}
    return replace(whole, seconds=whole.seconds / count, first=whole.first / count, sizes=sizes)


@dataclass(frozen=True)
class Answer:
    """A policy's reply as the engine uses it.

    Attributes:
        reply: The reply, its actions checked and made ``float32[H, A]``.
        policy_version: The policy's ``version`` when it answered; 0 for one that does not learn.
        seconds: Wall time that the policy spent on the batch.
    """

    reply: Reply
    policy_version: int
    seconds: float


@dataclass(frozen=True)
class Waiting:
    """A request that waits for its answer.

    Attributes:
        since: When it came, by the clock of ``time.perf_counter``.
        answer: Where its answer goes.
    """

    request: Request
    since: float
    answer: asyncio.Future[Answer]

    def settle(self, answer: Answer | Exception) -> None:
        """Set the answer or the error, unless the caller was cancelled."""
        if self.answer.done():
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class MemberQueue:
    """One member of a pool, which answers a batch at a time.

    Args:
        policy: The pool, or a policy in this process, which is its own only member.
        number: The member's number.
        alone_on_failure: Have it answer one request at a time where it fails on a batch.
    """

    def __init__(self, policy: Policy, number: int, alone_on_failure: bool) -> None:
        self.number = number
        self.pending: deque[Waiting] = deque()
        self.arrived = asyncio.Event()
        self.alive = True
        """Whether the member can act, as far as is known."""
        self.rounding = Rounding()
        self._policy = policy
        self._pool: PolicyPool[Any] | None = policy if isinstance(policy, PolicyPool) else None
        self._member: Any = policy if self._pool is None else self._pool.members[number]
        self._alone_on_failure = alone_on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._load = Load()
        self._acting_since: float | None = None
        self._batches = 0

    def put(self, waiting: Waiting) -> None:
        self.pending.append(waiting)
        self.arrived.set()

    def load(self) -> Load:
        """What the member answered so far; its seconds with those of a batch that is under way."""
        under_way = 0.0 if self._acting_since is None else time.perf_counter() - self._acting_since
        sizes = {size: replace(load) for size, load in self._load.sizes.items()}
        return replace(self._load, seconds=self._load.seconds + under_way, sizes=sizes)

    async def answer(self, batch: list[Waiting]) -> None:
        """Answer a batch that was taken from what waits.

        Raises:
            PolicyLost: The member is lost; no request was answered.
        """
        requests = [waiting.request for waiting in batch]
        now = time.perf_counter()
        self._load.queued += sum(now - waiting.since for waiting in batch)
        self._load.held_back += bool(self.pending)
        try:
            answers, seconds = await self._in_thread(lambda: self._timed_answers(requests))
        finally:
            self._acting_since = None
        self._load.add(len(requests), seconds)
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.settle(answer)

    async def revive(self) -> None:
        """Have the pool restart the member. Raises like :meth:`~.pool.PolicyPool.revive`."""
        if self._pool is not None:
            await self._in_thread(partial(self._pool.revive, self._member))

    async def close(self) -> None:
        """End the thread; a batch that the member is working on is awaited, unless it can be interrupted."""
        ended = asyncio.create_task(asyncio.to_thread(self._thread.shutdown))
        while self._pool is not None and not ended.done():
            await asyncio.to_thread(self._member.interrupt)  # again where it came before what it was to interrupt had begun
            await asyncio.wait({ended}, timeout=_INTERRUPT_SECONDS)
        await ended

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _timed_answers(self, requests: list[Request]) -> tuple[list[Answer | VlarigError], float]:
        """The same as :meth:`_answers`, and the seconds that it took. Runs in the member's thread."""
        self._acting_since = began = time.perf_counter()
        answers = self._answers(requests)
        return answers, time.perf_counter() - began

    def _answers(self, requests: list[Request]) -> list[Answer | VlarigError]:
        """The answer to each request, or its error. Runs in the member's thread."""
        try:
            with policy_code(self._policy.name, f"while it acted for {requests[0].key}"):
                began = time.perf_counter()
                replies = checked_replies(self._policy, requests, self._member.act)
                seconds = time.perf_counter() - began
                version = self._member.version
                self._compare(requests, replies)
                return [Answer(reply, version, seconds) for reply in replies]
        except VlarigError as error:
            if len(requests) == 1 or not self._alone_on_failure:
                return [error] * len(requests)
            return [answer for request in requests for answer in self._answers([request])]

    def _compare(self, requests: list[Request], replies: list[Reply]) -> None:
        """Have one of the batch's requests answered alone, now and then, and note the difference."""
        if len(requests) == 1 or not self._policy.batch_sensitive:
            return
        self._batches += 1
        if self._batches.bit_count() > 1 or self.rounding.compared >= MOST_COMPARED:
            return
        (alone,) = checked_replies(self._policy, requests[-1:], self._member.act)
        self.rounding.compared += 1
        self.rounding.largest = max(self.rounding.largest, float(np.abs(alone.actions - replies[-1].actions).max()))
