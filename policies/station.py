"""A station: one policy, the thread in which it answers, and what waits for it. There is one for each replica of a policy."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..envs.errors import VlarigError
from .api import Policy, Reply, Request
from .calls import policy_code
from .load import MOST_COMPARED, Load, Rounding
from .replies import checked_replies

T = TypeVar("T")

#: Seconds between two attempts to interrupt a policy.
_INTERRUPT_SECONDS = 0.1


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
class Asked:
    """A request that waits for its answer.

    Attributes:
        request: The request.
        at: When it was asked, by the clock of ``time.perf_counter``.
        answered: Where its answer goes.
    """

    request: Request
    at: float
    answered: asyncio.Future[Answer]

    def settle(self, answer: Answer | Exception) -> None:
        """Hand the answer, or what went wrong, to who asked, if anybody still waits."""
        if self.answered.done():
            return
        if isinstance(answer, Exception):
            self.answered.set_exception(answer)
        else:
            self.answered.set_result(answer)


class Station:
    """One policy, asked a batch at a time.

    Args:
        policy: The policy.
        number: Its number among its siblings.
        alone_on_failure: Ask it again, one request at a time, where it fails on a batch.
    """

    def __init__(self, policy: Policy, number: int, alone_on_failure: bool) -> None:
        self.number = number
        self.pending: deque[Asked] = deque()
        self.arrived = asyncio.Event()
        self.standing = True
        """Whether its process is there, as far as is known."""
        self.rounding = Rounding()
        self._policy = policy
        self._alone_on_failure = alone_on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._load = Load()
        self._answering_since: float | None = None
        self._batches = 0

    def put(self, asked: Asked) -> None:
        """Let a request wait here."""
        self.pending.append(asked)
        self.arrived.set()

    def load(self) -> Load:
        """What the policy was asked so far; its seconds with those of a batch that is under way."""
        under_way = 0.0 if self._answering_since is None else time.perf_counter() - self._answering_since
        sizes = {size: replace(load) for size, load in self._load.sizes.items()}
        return replace(self._load, seconds=self._load.seconds + under_way, sizes=sizes)

    async def answer(self, batch: list[Asked]) -> None:
        """Answer a batch that was taken from what waits.

        Raises:
            PolicyLost: The policy's process is gone; nobody was answered.
        """
        requests = [asked.request for asked in batch]
        now = time.perf_counter()
        self._load.queued += sum(now - asked.at for asked in batch)
        self._load.held_back += bool(self.pending)
        try:
            answers, seconds = await self._in_thread(lambda: self._timed_answers(requests))
        finally:
            self._answering_since = None
        self._load.add(len(requests), seconds)
        for asked, answer in zip(batch, answers, strict=True):
            asked.settle(answer)

    async def revive(self) -> None:
        """Have the policy's process started anew.

        Raises:
            VlarigError: It cannot be, or dies again and again.
        """
        revive = getattr(self._policy, "revive", None)
        if revive is not None:
            await self._in_thread(revive)

    async def close(self) -> None:
        """End the thread; a batch that the policy is working on is awaited, unless it can be interrupted."""
        interrupt = getattr(self._policy, "interrupt", None)
        ended = asyncio.create_task(asyncio.to_thread(self._thread.shutdown))
        while interrupt is not None and not ended.done():
            await asyncio.to_thread(interrupt)  # again where it came before what it was to interrupt had begun
            await asyncio.wait({ended}, timeout=_INTERRUPT_SECONDS)
        await ended

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _timed_answers(self, requests: list[Request]) -> tuple[list[Answer | VlarigError], float]:
        """The same as :meth:`_answers`, and the seconds that it took. Runs in the policy's thread."""
        self._answering_since = began = time.perf_counter()
        answers = self._answers(requests)
        return answers, time.perf_counter() - began

    def _answers(self, requests: list[Request]) -> list[Answer | VlarigError]:
        """The answer to each request, or what went wrong with it. Runs in the policy's thread."""
        try:
            with policy_code(self._policy.name, f"while it acted for {requests[0].key}"):
                return list(self._batch_answers(requests))
        except VlarigError as error:
            if len(requests) == 1 or not self._alone_on_failure:
                return [error] * len(requests)
            return [answer for request in requests for answer in self._answers([request])]

    def _batch_answers(self, requests: list[Request]) -> list[Answer]:
        began = time.perf_counter()
        replies = checked_replies(self._policy, requests)
        seconds = time.perf_counter() - began
        version = getattr(self._policy, "version", 0)
        self._compare(requests, replies)
        return [Answer(reply, version, seconds) for reply in replies]

    def _compare(self, requests: list[Request], replies: list[Reply]) -> None:
        """Ask for one of the batch's answers alone, now and then, and note the difference."""
        if len(requests) == 1 or not getattr(self._policy, "rounds_by_batch", False):
            return
        self._batches += 1
        if self._batches.bit_count() > 1 or self.rounding.compared >= MOST_COMPARED:
            return
        (alone,) = checked_replies(self._policy, requests[-1:])
        self.rounding.compared += 1
        self.rounding.largest = max(self.rounding.largest, float(np.abs(alone.actions - replies[-1].actions).max()))
