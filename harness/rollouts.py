"""Rollouts for RL: exact numbers of chunks from slots that live on between calls."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite
from ..envs.api import Episode, Protocol
from ..envs.background import BackgroundLoop
from ..envs.errors import VlarigError
from ..policies.api import Policy
from ..policies.batching import Batcher, Batching
from .engine import Engine, Sink, Transition
from .plan import plan_suite
from .sizing import suite_share
from .workers import local_workers


def episode_stream(suite: Suite, protocol: Protocol, slot: int, slots: int) -> Iterator[Episode]:
    """The endless episodes of one slot out of ``slots``: together they walk through every start of every task, then again.

    It depends on the number of slots, and on nothing else: not on workers, and not on who finishes first.
    """
    places = [(task, start) for task in suite.tasks for start in task.starts_of(protocol)]
    for count in itertools.count(slot, slots):
        task, start = places[count % len(places)]
        yield suite.episode(task, start, count // len(places), protocol)


def check_learnable(suite: Suite, protocol: Protocol, policy: Policy) -> None:
    """Make sure that the simulator is given the very rows that the policy answers with: a log-probability is of no others.

    Raises:
        VlarigError: The protocol's ensemble would combine them with rows of earlier answers.
    """
    if protocol.ensemble is not None and (policy.horizon or protocol.execute) > protocol.execute:
        others = ", ".join(other.name for other in suite.protocols if other.ensemble is None) or f"none in {suite.name!r}"
        raise VlarigError(
            f"protocol {protocol.name!r} combines overlapping answers of the policy, so what is carried out is not what it answered "
            f"and cannot be learned from; choose a protocol without an ensemble ({others})"
        )


class Rollouts:
    """A policy playing one suite in a fixed number of slots, collected chunk by chunk. Use it as a context manager.

    Args:
        suite: Name of the suite.
        policy: Who plays.
        protocol: Name of one of the suite's protocols; its default when ``None``.
        workers: Simulator processes.
        slots: Episodes under way in each.
        streams: Each slot's endless episodes, ``workers * slots`` of them; :func:`episode_stream` over the suite when ``None``.
            None may be under a protocol whose ensemble changes what the policy answered (:func:`check_learnable`).
        seed: Seed of the policy's randomness.
        batch: Most requests in a batch; as many as there are slots when ``None``.
        sinks: Who else takes the transitions.
        logs: Folder of the workers' logs.
    """

    def __init__(
        self,
        suite: str,
        policy: Policy,
        *,
        protocol: str | None = None,
        workers: int = 1,
        slots: int = 1,
        streams: Sequence[Iterator[Episode]] | None = None,
        seed: int = 0,
        batch: int | None = None,
        sinks: Sequence[Sink] = (),
        logs: Path = Path("logs"),
    ) -> None:
        self._plan = plan_suite(load_suite(suite), policy, protocol=protocol)
        self._policy = policy
        self._workers, self._slots, self._seed, self._sinks, self._logs = workers, slots, seed, sinks, logs
        self._batching = Batching(batch or workers * slots)
        total = workers * slots
        if not streams:
            check_learnable(self._plan.suite, self._plan.protocol, policy)
            streams = [episode_stream(self._plan.suite, self._plan.protocol, number, total) for number in range(total)]
        self._streams = [map(partial(_learnable, self._plan.suite, policy), stream) for stream in streams]

    def __enter__(self) -> Self:
        """Start the workers.

        Raises:
            VlarigError: They cannot be started.
        """
        self._loop = BackgroundLoop("vlarig-engine")
        self._stack = AsyncExitStack()
        try:
            self._engine = self._loop.run(self._open())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        try:
            self._loop.run(self._stack.aclose())
        finally:
            self._loop.close()

    def collect(self, chunks_per_slot: int) -> list[list[Transition]]:
        """The next transitions, ``[slot][chunk]``: exactly ``chunks_per_slot`` of each slot, which may end in mid-episode.

        Where a chunk ends an episode, its transition holds the final observation and the next episode's first one.

        Raises:
            VlarigError: The policy misbehaved, or a simulator failed again and again.
        """
        return self._loop.run(self._engine.collect(chunks_per_slot))

    async def _open(self) -> Engine:
        try:
            share = suite_share(self._plan.suite, self._workers, self._slots)
            hosts = await self._stack.enter_async_context(local_workers(self._plan.workplace, self._workers, self._logs, share))
            batcher = await self._stack.enter_async_context(Batcher(self._policy, self._batching))
        except BaseException:
            await self._stack.aclose()
            raise
        needs = replace(self._policy.needs, final_frame=True)
        embodiment = self._plan.suite.embodiment
        return Engine(hosts, self._slots, embodiment, needs, batcher, self._seed, self._sinks, self._streams)


def _learnable(suite: Suite, policy: Policy, episode: Episode) -> Episode:
    """The episode, unless its protocol cannot be learned from."""
    check_learnable(suite, episode.protocol, policy)
    return episode
