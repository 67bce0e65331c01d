"""The engine: moves episodes through slots, and hands every transition to its sinks.

A sweep and RL differ only in where a slot's next episode comes from and in when to stop: :meth:`Engine.sweep` empties a queue that all
slots share; :meth:`Engine.collect` takes an exact number of chunks from each slot's own endless stream and keeps the slots as they
are, in mid-episode, for the next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from ..envs.api import ChunkResult, Episode, Needs, Observation, Snapshot, observe
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.messages import CRASH
from ..policies.api import PolicyLost, Reply, Request, policy_seed
from ..policies.batching import Batcher
from ..results.records import Attempt
from .children.liveness import together
from .children.supervisor import ChildLostError
from .ensembling import Ensembler
from .episode_queue import EpisodeQueue
from .slot import GivenUpError, SimSlot
from .workers import MOST_LOSSES, Worker

T = TypeVar("T")


@dataclass(frozen=True)
class Transition:
    """One chunk of one episode.

    Attributes:
        episode: The episode.
        request: What the policy was asked, with the observation before the chunk.
        reply: What it answered.
        actions: The rows that the simulator was given: the first ``execute`` of the reply's, or what the protocol's ensemble made of
            them and of earlier replies. The simulator has run as many of them as there are in ``result.rows``.
        result: What the chunk did.
        policy_version: The policy's version when it answered.
        observation: The observation after the chunk; at an episode's end the final one.
        next_first: The first observation of the slot's next episode where this chunk ended one and the slot goes on.
        seconds: Wall time by activity: ``simulate``, ``render``, ``policy``, ``wait``.
        worker: Name of the worker that ran it.
    """

    episode: Episode
    request: Request
    reply: Reply
    actions: np.ndarray
    result: ChunkResult
    policy_version: int
    observation: Observation
    next_first: Observation | None
    seconds: dict[str, float]
    worker: str

    @property
    def following(self) -> Request:
        """The request at the observation after the chunk, for :meth:`~vlarig.policies.api.Policy.value`; never made by the engine."""
        return replace(self.request, chunk=self.request.chunk + 1, observation=self.observation)


class Sink(Protocol):
    """Takes what the engine measures."""

    async def emit(self, transition: Transition) -> None:
        """Take one transition; those of an episode come in order."""
        ...

    async def fault(self, attempt: Attempt) -> None:
        """Take note of a failed attempt."""
        ...


class Slot:
    """One slot as the policy plays it."""

    def __init__(self, number: int, sim: SimSlot, engine: Engine) -> None:
        self.number = number
        self.activity = "idle"
        """What the slot does now: ``idle``, ``reset``, ``simulate`` or ``policy``."""
        self._sim = sim
        self._engine = engine

    @property
    def worker(self) -> Worker:
        """The worker."""
        return self._sim.worker

    def abandon(self) -> None:
        """Forget the episode that is under way."""
        self._sim.episode = None

    @property
    def under_way(self) -> bool:
        """Whether an episode has begun and is not over."""
        return self._sim.episode is not None

    async def begin(self, episode: Episode) -> Observation:
        """Start an episode and return its first observation.

        Raises:
            GivenUpError: It could not be started in :data:`~vlarig.harness.slot.MOST_ATTEMPTS` attempts.
        """
        self._ensembler = Ensembler(episode.protocol.ensemble)
        began = time.perf_counter()
        self.activity = "reset"
        snapshot = await self._sim.begin(episode)
        self._reset_seconds = _split(time.perf_counter() - began, snapshot.seconds, 0.0)
        self.observation = observe(snapshot)
        return self.observation

    async def advance(self) -> Transition:
        """Ask the policy and run one chunk.

        Raises:
            GivenUpError: The simulator failed :data:`~vlarig.harness.slot.MOST_ATTEMPTS` times in this episode.
        """
        episode, snapshot = self._sim.episode, self._sim.snapshot
        assert episode is not None
        assert snapshot is not None
        began = time.perf_counter()
        request = self._request(episode, snapshot)
        self.activity = "policy"
        answer = await self._engine.batcher.ask(request)
        self.activity = "simulate"
        actions = self._ensembler.rows(answer.reply.actions, request.execute)
        result = await self._sim.step(actions)
        self.activity = "idle"
        seconds = _split(time.perf_counter() - began, result.snapshot.seconds, answer.seconds)
        for name, value in self._reset_seconds.items():
            seconds[name] += value
        self._reset_seconds = {}
        self.observation = observe(result.snapshot)
        return Transition(
            episode=episode,
            request=request,
            reply=answer.reply,
            actions=actions,
            result=result,
            policy_version=answer.policy_version,
            observation=self.observation,
            next_first=None,
            seconds=seconds,
            worker=self.worker.name,
        )

    def _request(self, episode: Episode, snapshot: Snapshot) -> Request:
        chunk = self._sim.chunks
        return Request(
            slot=self.number,
            key=episode.key,
            chunk=chunk,
            seed=policy_seed(self._engine.seed, episode.key, chunk),
            observation=self.observation,
            embodiment=self._engine.embodiment,
            execute=episode.protocol.execute,
            privileged=snapshot.privileged,
        )


class Engine:
    """Slots over workers, one policy, and the sinks.

    Args:
        workers: The workers, all of one suite.
        slots_per_worker: Slots in each.
        embodiment: The suite's embodiment.
        needs: What the policy (and the training, for final frames) wants to see.
        batcher: Asks the policy.
        seed: The run's seed.
        sinks: Who takes transitions and faults.
        streams: For :meth:`collect`: each slot's endless episodes. Such a slot waits for a worker whose machine is away.
        first: Number of the first slot, where several engines have one policy.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        slots_per_worker: int,
        embodiment: Embodiment,
        needs: Needs,
        batcher: Batcher,
        seed: int,
        sinks: Sequence[Sink] = (),
        streams: Sequence[Iterator[Episode]] = (),
        first: int = 0,
    ) -> None:
        self._streams = streams
        self._first = first
        self.embodiment = embodiment
        self.needs = needs
        self.batcher = batcher
        self.seed = seed
        self.sinks = sinks
        self.slots: list[Slot] = []
        """They; those of workers that join a sweep later come last."""
        places = [(worker, local) for local in range(slots_per_worker) for worker in workers]
        if len(streams) > len(places):
            raise ValueError(f"{len(streams)} streams for {len(places)} slots; each stream needs a slot of its own")
        for worker, local in places[: len(streams) or None]:
            self._add_slot(worker, local)
        self._loss: ChildLostError | None = None

    async def sweep(self, queue: EpisodeQueue, joining: AsyncIterator[tuple[Worker, int]] | None = None) -> None:
        """Run every episode of the queue; those given up are in the sinks' hands as faults.

        An episode whose worker, or whose policy's process, is lost is begun again.

        Args:
            queue: What to run.
            joining: Workers that come later, each with its number of slots.

        Raises:
            VlarigError: The policy or an env refused, or no worker is left.
        """
        playing: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:

                def play(slot: Slot) -> None:
                    playing.append(group.create_task(self._sweep_slot(slot, queue)))

                for slot in self.slots:
                    play(slot)
                newcomers = group.create_task(self._let_join(joining, play))
                for each in playing:  # newcomers too
                    await asyncio.wait({each})
                newcomers.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if not queue.over:
            assert self._loss is not None
            raise self._loss

    async def collect(self, chunks_per_slot: int, keep: Callable[[Transition], T]) -> list[list[T]]:
        """The next ``chunks_per_slot`` transitions of every slot: ``[slot][chunk]``, of each what ``keep`` gives.

        Raises:
            VlarigError: A slot's episode failed :data:`~vlarig.harness.slot.MOST_ATTEMPTS` times, its worker is gone for good, or the
                policy lost its notes on it.
        """
        return await together([self._collect_slot(slot, chunks_per_slot, keep) for slot in self.slots])

    def activities(self) -> Counter[str]:
        """How many slots are at what."""
        return Counter(slot.activity for slot in self.slots)

    def _add_slot(self, worker: Worker, local: int) -> Slot:
        sim = SimSlot(worker, local, self.needs, self._note, waits=bool(self._streams))
        self.slots.append(Slot(self._first + len(self.slots), sim, self))
        return self.slots[-1]

    async def _let_join(self, joining: AsyncIterator[tuple[Worker, int]] | None, play: Callable[[Slot], None]) -> None:
        if joining is not None:
            async for worker, slots in joining:
                for local in range(slots):
                    play(self._add_slot(worker, local))

    async def _sweep_slot(self, slot: Slot, queue: EpisodeQueue) -> None:
        while (episode := await queue.take(slot.worker.number)) is not None:
            self.batcher.playing += 1
            try:
                await self._play(slot, episode)
                queue.done()
            except (ChildLostError, PolicyLost) as loss:
                await self._put_back(slot, episode, loss, queue)
            finally:
                self.batcher.playing -= 1
                self.batcher.forget(slot.number)
                slot.activity = "idle"
            if not await _stands(slot.worker, queue):
                self._loss = slot.worker.absence or self._loss
                return

    async def _play(self, slot: Slot, episode: Episode) -> None:
        """Play an episode until it is over, or given up."""
        with contextlib.suppress(GivenUpError):
            await slot.begin(episode)
            while slot.under_way:
                await self._emit(await slot.advance())

    async def _put_back(self, slot: Slot, episode: Episode, loss: Exception, queue: EpisodeQueue) -> None:
        """Have an episode begun again, unless it was lost so often that it is held to be the cause."""
        slot.abandon()
        times = queue.times_put_back(episode)
        if times < MOST_LOSSES:
            queue.put_back(episode)
            return
        story = f"it was lost with what it ran on {times + 1} times; the last time: {loss}"
        await self._note(Attempt(episode.key, 1, CRASH, story, slot.worker.name, gave_up=True))
        queue.done()

    async def _collect_slot(self, slot: Slot, chunks: int, keep: Callable[[Transition], T]) -> list[T]:
        stream = self._streams[slot.number - self._first]
        kept = []
        self.batcher.playing += 1
        try:
            if not slot.under_way:
                await slot.begin(await _next(stream))
            for _ in range(chunks):
                transition = await slot.advance()
                if transition.result.over:
                    transition = replace(transition, next_first=await slot.begin(await _next(stream)))
                await self._emit(transition)
                kept.append(keep(transition))
        except (GivenUpError, PolicyLost) as error:
            raise VlarigError(f"slot {slot.number} cannot go on: {error}") from None
        finally:
            self.batcher.playing -= 1
        return kept

    async def _emit(self, transition: Transition) -> None:
        for sink in self.sinks:
            await sink.emit(transition)

    async def _note(self, attempt: Attempt) -> None:
        for sink in self.sinks:
            await sink.fault(attempt)


def _split(wall: float, simulator: dict[str, float], policy: float) -> dict[str, float]:
    """Wall seconds by activity; what neither the simulator nor the policy worked in is ``wait``."""
    worked = {"simulate": simulator["simulate"], "render": simulator["render"], "policy": policy}
    return worked | {"wait": max(0.0, wall - sum(worked.values()))}


async def _next(stream: Iterator[Episode]) -> Episode:
    """A stream's next episode. Drawing one may take a while, in which other slots go on."""
    return await asyncio.to_thread(next, stream)


async def _stands(worker: Worker, queue: EpisodeQueue) -> bool:
    """Wait until a worker is there; false where it is not before all episodes are done, or is given up."""
    if worker.absence is None:
        return True
    back, over = asyncio.create_task(worker.found()), asyncio.create_task(queue.wait_until_over())
    try:
        await asyncio.wait({back, over}, return_when=asyncio.FIRST_COMPLETED)
        return back.done() and back.result()
    finally:
        back.cancel()
        over.cancel()
