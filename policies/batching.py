"""Batches of requests: slots ask one by one, the policy answers many at a time in a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ..envs.api import check_actions
from ..envs.embodiments import Embodiment
from ..envs.errors import BadActionError, VlarigError
from .api import Policy, PolicyError, Reply, Request


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


#: Answers whose rounding is measured: of the batches number 1, 2, 4, 8 and so on, so that a long run costs no more.
MOST_COMPARED = 12


@dataclass
class Rounding:
    """What the batch's shape did to a neural policy's answers: the same request was asked alone too.

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


@dataclass
class Load:
    """What a policy was asked, and how long it took; loads add up.

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
        size = self.sizes.setdefault(1 << (requests - 1).bit_length(), SizeLoad())
        size.batches += 1
        size.requests += requests
        size.seconds += seconds


class Batcher:
    """Collects requests and has the policy answer them. Use it as an asynchronous context manager."""

    def __init__(self, policy: Policy, batching: Batching) -> None:
        self._policy = policy
        self._batching = batching
        self._pending: deque[tuple[Request, float, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._load = Load()
        self._answering_since: float | None = None
        self.rounding = Rounding()
        self._batches = 0
        self.playing = 0
        """How many may still ask; kept by whoever asks, so that a batch does not wait for those that will not."""

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
        self._pending.append((request, time.perf_counter(), answered))
        self._arrived.set()
        return await answered

    def load(self) -> Load:
        """What the policy was asked so far; its seconds with those of a batch that is under way."""
        under_way = 0.0 if self._answering_since is None else time.perf_counter() - self._answering_since
        sizes = {size: replace(load) for size, load in self._load.sizes.items()}
        return replace(self._load, seconds=self._load.seconds + under_way, sizes=sizes)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), self._batching.most))]
            requests = [request for request, _, _ in batch]
            self._answering_since = now = time.perf_counter()
            self._load.queued += sum(now - asked for _, asked, _ in batch)
            self._load.held_back += bool(self._pending)
            answers, seconds = await loop.run_in_executor(self._thread, self._timed_answers, requests)
            self._answering_since = None
            self._load.add(len(requests), seconds)
            for (_, _, answered), answer in zip(batch, answers, strict=True):
                if answered.done():
                    continue
                if isinstance(answer, VlarigError):
                    answered.set_exception(answer)
                else:
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

    def _timed_answers(self, requests: list[Request]) -> tuple[list[Answer | VlarigError], float]:
        """The same as :meth:`_answers`, and the seconds that it took. Runs in the policy's thread."""
        began = time.perf_counter()
        answers = self._answers(requests)
        return answers, time.perf_counter() - began

    def _answers(self, requests: list[Request]) -> list[Answer | VlarigError]:
        """The answer to each request, or what went wrong with it. Runs in the policy's thread."""
        try:
            return list(self._act(requests))
        except VlarigError as error:
            if len(requests) == 1 or not self._batching.alone_on_failure:
                return [error] * len(requests)
            return [answer for request in requests for answer in self._answers([request])]

    def _act(self, requests: list[Request]) -> list[Answer]:
        try:
            return self._checked_answers(requests)
        except VlarigError:
            raise
        except Exception as error:
            raise PolicyError(
                f"the policy {self._policy.name!r} raised {type(error).__name__} while it acted for {requests[0].key}: {error}"
            ) from error

    def _checked_answers(self, requests: list[Request]) -> list[Answer]:
        began = time.perf_counter()
        replies = list(self._policy.act(requests))
        seconds = time.perf_counter() - began
        if len(replies) != len(requests):
            raise PolicyError(f"the policy {self._policy.name!r} gave {len(replies)} replies to {len(requests)} requests")
        version = getattr(self._policy, "version", 0)
        checked = [checked_reply(self._policy, request, reply) for request, reply in zip(requests, replies, strict=True)]
        self._compare(requests, checked)
        return [Answer(reply, version, seconds) for reply in checked]

    def _compare(self, requests: list[Request], replies: list[Reply]) -> None:
        """Ask for one of the batch's answers alone, now and then, and note the difference."""
        if len(requests) == 1 or not getattr(self._policy, "rounds_by_batch", False):
            return
        self._batches += 1
        if self._batches.bit_count() > 1 or self.rounding.compared >= MOST_COMPARED:
            return
        (reply,) = self._policy.act(requests[-1:])
        alone = checked_reply(self._policy, requests[-1], reply)
        self.rounding.compared += 1
        self.rounding.largest = max(self.rounding.largest, float(np.abs(alone.actions - replies[-1].actions).max()))


def checked_reply(policy: Policy, request: Request, reply: Reply) -> Reply:
    """``reply`` with its actions as ``float32[H, A]``.

    Raises:
        PolicyError: It is no reply, its actions do not fit the embodiment, or they are not as many rows as the policy promises.
    """
    if not isinstance(reply, Reply):
        raise PolicyError(
            f"the policy {policy.name!r} answered {request.key} with something of type {type(reply).__name__}; give a "
            "vlarig.policies.api.Reply(actions)"
        )
    try:
        actions = check_actions(reply.actions, request.embodiment)
    except BadActionError as error:
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} badly: {error}") from None
    horizon = horizon_for(policy, request.embodiment)
    rows = request.execute if horizon is None else horizon
    if len(actions) != rows:
        promised = "the request's execute" if horizon is None else "its horizon"
        raise PolicyError(f"the policy {policy.name!r} answered {request.key} with {len(actions)} rows; {promised} is {rows}")
    return Reply(np.ascontiguousarray(actions), reply.extras)


def horizon_for(policy: Policy, embodiment: Embodiment) -> int | None:
    """Rows of the policy's answers to this embodiment: its ``rows``, where it has that member, else its horizon."""
    rows = getattr(policy, "rows", None)
    return policy.horizon if rows is None else rows(embodiment)


def execute_for(policy: Policy, embodiment: Embodiment, wanted: int) -> int:
    """Rows to execute of each chunk: as many as wanted, but no more than the policy predicts."""
    horizon = horizon_for(policy, embodiment)
    return wanted if horizon is None else min(wanted, horizon)
