"""The ledger sink: turns a sweep's transitions into records, and writes each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np

from ..envs.api import Episode
from ..results.ledger import Ledger
from ..results.records import Attempt, EpisodeRecord
from .engine import Transition

T = TypeVar("T")


class LedgerSink:
    """Writes finished episodes and failed attempts to a ledger, from a thread of its own.

    A commit waits for the disk, the event loop must not: writes are queued, and a write that fails is raised at the next call. Use it
    as an asynchronous context manager; leaving it waits for the queue.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._under_way: dict[int, list[Transition]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._writes: set[asyncio.Future[object]] = set()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Nothing to open; the ledger is."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until all that was emitted is on the disk.

        Raises:
            VlarigError: The ledger could not be written.
        """
        if self._writes:
            await asyncio.shield(asyncio.wait(self._writes))
        self._thread.shutdown()
        self._raise_failure()

    async def emit(self, transition: Transition) -> None:
        """Keep a chunk; with an episode's last, write its record."""
        self._raise_failure()
        chunks = self._under_way.setdefault(transition.request.slot, [])
        if transition.request.chunk == 0:
            chunks.clear()
        chunks.append(transition)
        if transition.result.over:
            self._write(self._ledger.write_episode, record_of(chunks))
            del self._under_way[transition.request.slot]

    async def fault(self, attempt: Attempt) -> None:
        """Write a failed attempt."""
        self._raise_failure()
        self._write(self._ledger.write_attempt, attempt)

    def _write(self, write: Callable[[T], object], value: T) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._thread, write, value)
        self._writes.add(future)
        future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[object]) -> None:
        self._writes.discard(future)
        if not future.cancelled() and future.exception() is not None:
            self._failure = self._failure or future.exception()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def record_of(transitions: list[Transition]) -> EpisodeRecord:
    """The record of a finished episode from all its transitions, in order."""
    last = transitions[-1]
    episode: Episode = last.episode
    snapshot = last.result.snapshot
    rows = [len(each.result.rows) for each in transitions]
    seconds = {name: sum(each.seconds[name] for each in transitions) for name in last.seconds}
    success = snapshot.outcome.under(episode.protocol.success_rule, episode.protocol.hold_rows)
    assert success is not None, f"{episode.key} ended before its own rule could be told"
    return EpisodeRecord(
        key=episode.key,
        suite=episode.suite,
        protocol=f"{episode.protocol.name}@{episode.protocol.version}",
        task=episode.task,
        variant=episode.variant,
        start=episode.start,
        repeat=episode.repeat,
        success=success,
        outcome=snapshot.outcome,
        reward=sum(row.reward for each in transitions for row in each.result.rows),
        steps=snapshot.step,
        primitives=snapshot.primitives,
        chunks=tuple(rows),
        actions=np.concatenate([each.actions[:count] for each, count in zip(transitions, rows, strict=True)]),
        metrics=snapshot.metrics,
        state_digest=snapshot.state_digest,
        image_digest=snapshot.image_digest,
        seconds=seconds | {"total": sum(seconds.values())},
        worker=last.worker,
    )
