"""Batches of requests: slots ask one by one, the policy answers many at a time in a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..envs.api import check_actions
from ..envs.errors import BadActionError, VlarigError
from ..policies.api import Policy, PolicyError, Reply, Request


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        most: Most requests in a batch.
        wait_seconds: How long a batch that is not full waits for more; it never waits when nobody else could join. At 0,
            whatever arrived while the policy was busy makes the next batch.
        fixed_shape: Fill every batch up to ``most`` by repeating its first request, so that a neural policy computes the same
            numbers whoever else is in the batch.
    """

    most: int
    wait_seconds: float = 0.0
    fixed_shape: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"a batch of at most {self.most} requests; expected 1 or more")


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


class Batcher:
    """Collects requests and has the policy answer them. Use it as an asynchronous context manager."""

    def __init__(self, policy: Policy, batching: Batching) -> None:
        self._policy = policy
        self._batching = batching
        self._pending: deque[tuple[Request, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self.playing = 0
        """Slots that may still ask; kept by the engine, so that a batch does not wait for those that will not."""

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._server = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; a batch that the policy is working on is awaited."""
        self._server.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def ask(self, request: Request) -> Answer:
        """The policy's answer.

        Raises:
            PolicyError: The policy raised, or its reply is not what the request asked for.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending.append((request, answered))
        self._arrived.set()
        return await answered

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), self._batching.most))]
            requests = [request for request, _ in batch]
            try:
                answers = await loop.run_in_executor(self._thread, self._act, requests)
            except VlarigError as error:
                for _, answered in batch:
                    if not answered.done():
                        answered.set_exception(error)
                continue
            for (_, answered), answer in zip(batch, answers, strict=True):
                if not answered.done():
                    answered.set_result(answer)

    async def _gather(self) -> None:
        """Return when a batch should go: it is full, nobody else could join, or it has waited long enough."""
        while not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = time.monotonic() + self._batching.wait_seconds
        while len(self._pending) < min(self._batching.most, self.playing):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), remaining)
            except TimeoutError:
                return

    def _act(self, requests: list[Request]) -> list[Answer]:
        """Runs in the policy's thread."""
        shown = requests
        if self._batching.fixed_shape:
            shown = requests + requests[:1] * (self._batching.most - len(requests))
        began = time.perf_counter()
        try:
            replies = list(self._policy.act(shown))
        except VlarigError:
            raise
        except Exception as error:
            raise PolicyError(
                f"the policy {self._policy.name!r} raised {type(error).__name__} while it acted for {requests[0].key}: {error}"
            ) from error
        seconds = time.perf_counter() - began
        if len(replies) != len(shown):
            raise PolicyError(f"the policy {self._policy.name!r} gave {len(replies)} replies to {len(shown)} requests")
        version = getattr(self._policy, "version", 0)
        return [
            Answer(checked_reply(self._policy, request, reply), version, seconds)
            for request, reply in zip(requests, replies, strict=False)
        ]


def checked_reply(policy: Policy, request: Request, reply: Reply) -> Reply:
    """``reply`` with its actions as ``float32[H, A]``.

    Raises:
        PolicyError: The actions do not fit the embodiment, or are not the number of rows that the policy promises.
    """
    try:
        actions = check_actions(reply.actions, request.embodiment)
    except BadActionError as error:
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} badly: {error}") from None
    rows = request.execute if policy.horizon is None else policy.horizon
    if len(actions) != rows:
        promised = "the request's execute" if policy.horizon is None else "its horizon"
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} with {len(actions)} rows; {promised} is {rows}")
    return Reply(np.ascontiguousarray(actions), reply.extras)


def execute_for(policy: Policy, wanted: int) -> int:
    """Rows to execute of each chunk: as many as wanted, but no more than the policy predicts."""
    return wanted if policy.horizon is None else min(wanted, policy.horizon)
