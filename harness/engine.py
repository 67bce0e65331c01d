"""The engine: moves episodes through envs, and hands every transition to its sinks.

A sweep and RL differ in where an env's next episode comes from and in when to stop: :meth:`Engine.sweep` empties a queue that all envs
share; :meth:`Engine.collect` takes an exact number of chunks from each env's own endless stream and keeps the envs as they are, in
mid-episode, for the next call. What is lost with a machine or with the policy's process goes back into the queue; an env with a stream
waits for its machine, and ends the call where the policy's state of its episode is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..envs.api import Episode, Needs, Observation, Snapshot, observe
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.messages import LOST
from ..policies.api import PolicyLost, Request, policy_seed
from ..policies.batching import Batcher
from ..results.records import Attempt
from .children.liveness import together
from .children.supervisor import ChildLostError
from .durable_env import DurableEnv
from .episode_queue import EpisodeQueue
from .execution import Execution
from .losses import GivenUpError, Losses
from .transition import Sink, Transition
from .workers import Worker

T = TypeVar("T")


@dataclass(frozen=True)
class EnvProgress:
    """How far an env of :meth:`Engine.collect` is, from which another process goes on.

    Attributes:
        drawn: Episodes that its stream has given.
        actions: The chunks that the last of them has run; ``None`` where it is over.
    """

    drawn: int
    actions: tuple[np.ndarray, ...] | None


class PlayedEnv:
    """One env as the policy plays it."""

    def __init__(self, number: int, sim: DurableEnv, engine: Engine, stream: Iterator[Episode] | None = None) -> None:
        self.number = number
        self.activity = "idle"
        """The env's present activity: ``idle``, ``reset``, ``simulate`` or ``policy``."""
        self.drawn = 0
        """Episodes that its stream has given."""
        self._sim = sim
        self._engine = engine
        self._stream = stream
        self._reset_seconds: dict[str, float] = {}

    @property
    def worker(self) -> Worker:
        return self._sim.worker

    def abandon(self) -> None:
        self._sim.episode = None

    @property
    def under_way(self) -> bool:
        """Whether an episode has begun and is not over."""
        return self._sim.episode is not None

    @property
    def progress(self) -> EnvProgress:
        return EnvProgress(self.drawn, self._sim.actions if self.under_way else None)

    async def draw(self) -> Episode:
        """The next episode of its stream. Taking one may take a while, in which other envs go on."""
        assert self._stream is not None
        episode = await asyncio.to_thread(next, self._stream)
        self.drawn += 1
        return episode

    async def begin(self, episode: Episode, actions: Sequence[np.ndarray] = ()) -> Observation:
        """Start an episode, run the chunks that it had run before, and return the observation after them.

        Raises:
            GivenUpError: It failed too often, see :class:`.losses.Losses`.
            ChildLostError: Its worker is away, in a sweep.
        """
        self._execution = Execution(episode.protocol, self._engine.embodiment)
        began = time.perf_counter()
        self.activity = "reset"
        snapshot = await self._sim.begin(episode, actions)
        self.activity = "idle"
        self._reset_seconds = _split(time.perf_counter() - began, snapshot.seconds, 0.0)
        self.observation = observe(snapshot)
        return self.observation

    async def advance(self) -> Transition:
        """Query the policy and run one chunk.

        Raises:
            GivenUpError: It failed too often.
            ChildLostError: Its worker is away and the env does not wait, or the worker is given up.
            PolicyLost: The policy's process is dead, and with it the policy's state of the episode.
        """
        episode, snapshot = self._sim.episode, self._sim.snapshot
        assert episode is not None
        assert snapshot is not None
        began = time.perf_counter()
        request = self._request(episode, snapshot)
        self.activity = "policy"
        answer = await self._engine.batcher.ask(request)
        self.activity = "simulate"
        actions = self._execution.steps(answer.reply.actions)
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
            env=self.number,
            key=episode.key,
            chunk=chunk,
            seed=policy_seed(self._engine.seed, episode.key, chunk),
            observation=self.observation,
            embodiment=self._engine.embodiment,
            n_action_steps=episode.protocol.read_steps,
            privileged=snapshot.privileged,
            prefix=self._execution.ask(self.observation["state"]),
        )


class Engine:
    """Envs over workers, one policy, and the sinks.

    Args:
        workers: The workers, all of one suite.
        num_envs: Envs in all; workers get equally many, or one less.
        embodiment: The suite's embodiment.
        needs: The needs of the policy (and of the training, for final frames).
        batcher: Queries the policy.
        seed: The run's seed.
        sinks: They take transitions and faults.
        streams: For :meth:`collect`: each env's endless episodes. Such an env waits for a worker whose machine is away.
        first: Number of the first env, where several engines have one policy.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        num_envs: int,
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
        self._sinks = sinks
        self._losses = Losses(self._note)
        self.envs: list[PlayedEnv] = []
        """The envs; those of workers that join a sweep later come last."""
        for number in range(num_envs):
            self._add_env(workers[number % len(workers)], number // len(workers))
        self._last_absence: ChildLostError | None = None

    async def sweep(self, queue: EpisodeQueue, joining: AsyncIterator[tuple[Worker, int]] | None = None) -> None:
        """Run every episode of the queue; those given up reach the sinks as faults.

        An episode whose worker, or whose policy's process, is lost is started again.

        Args:
            queue: The episodes.
            joining: Workers that join later, each with its number of envs.

        Raises:
            ChildLostError: All workers are given up, and episodes are left.
        """
        playing: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:

                def play(env: PlayedEnv) -> None:
                    playing.append(group.create_task(self._sweep_env(env, queue)))

                for env in self.envs:
                    play(env)
                newcomers = group.create_task(self._let_join(joining, play))
                for each in playing:  # newcomers too
                    await asyncio.wait({each})
                newcomers.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if not queue.over:
            assert self._last_absence is not None
            raise self._last_absence

    async def collect(self, chunks_per_env: int, keep: Callable[[Transition], T]) -> list[list[T]]:
        """The next ``chunks_per_env`` transitions of every env: ``[env][chunk]``, of each what ``keep`` gives.

        Raises:
            VlarigError: An env cannot go on: its episode failed too often, or the policy's state of it is lost.
        """
        return await together([self._collect_env(env, chunks_per_env, keep) for env in self.envs])

    async def go_on(self, progress: Sequence[EnvProgress]) -> None:
        """Bring each env to where it was, from streams of which nothing was taken. Raises like :meth:`collect`."""
        await together([self._bring(env, each) for env, each in zip(self.envs, progress, strict=True)])

    def activities(self) -> Counter[str]:
        return Counter(env.activity for env in self.envs)

    def _add_env(self, worker: Worker, local: int) -> PlayedEnv:
        sim = DurableEnv(worker, local, self.needs, self._losses, waits=bool(self._streams))
        stream = self._streams[len(self.envs)] if self._streams else None
        self.envs.append(PlayedEnv(self._first + len(self.envs), sim, self, stream))
        return self.envs[-1]

    async def _let_join(self, joining: AsyncIterator[tuple[Worker, int]] | None, play: Callable[[PlayedEnv], None]) -> None:
        if joining is not None:
            async for worker, envs in joining:
                for local in range(envs):
                    play(self._add_env(worker, local))

    async def _sweep_env(self, env: PlayedEnv, queue: EpisodeQueue) -> None:
        while (episode := await queue.take(env.worker.number)) is not None:
            with self.batcher.one_more_env():
                if await self._play(env, episode):
                    queue.done()
                else:
                    queue.put_back(episode)
            if not await _worker_ready(env.worker, queue):
                self._last_absence = env.worker.absence or self._last_absence
                return

    async def _play(self, env: PlayedEnv, episode: Episode) -> bool:
        """Play an episode until it is over or given up; false where its worker, or the policy's process, is lost before."""
        try:
            await env.begin(episode)
            while env.under_way:
                await self._emit(await env.advance())
        except ChildLostError:  # the failure of the request that noticed it is charged
            env.abandon()
            return False
        except PolicyLost as loss:
            env.abandon()
            with contextlib.suppress(GivenUpError):
                await self._losses.charge(episode.key, env.worker.name, LOST, str(loss))
                return False
        except GivenUpError:
            pass
        finally:
            self.batcher.forget(env.number)
            env.activity = "idle"
        return True

    async def _bring(self, env: PlayedEnv, progress: EnvProgress) -> None:
        episode = None
        while env.drawn < progress.drawn:
            episode = await env.draw()
        if episode is not None and progress.actions is not None:
            with _goes_on(env):
                await env.begin(episode, progress.actions)

    async def _collect_env(self, env: PlayedEnv, chunks: int, keep: Callable[[Transition], T]) -> list[T]:
        kept = []
        with self.batcher.one_more_env(), _goes_on(env):
            if not env.under_way:
                await env.begin(await env.draw())
            for _ in range(chunks):
                transition = await env.advance()
                if transition.result.over:
                    transition = replace(transition, next_first=await env.begin(await env.draw()))
                await self._emit(transition)
                kept.append(keep(transition))
        return kept

    async def _emit(self, transition: Transition) -> None:
        for sink in self._sinks:
            await sink.emit(transition)

    async def _note(self, attempt: Attempt) -> None:
        for sink in self._sinks:
            await sink.fault(attempt)


def _split(wall: float, simulator: dict[str, float], policy: float) -> dict[str, float]:
    """Wall seconds by activity; what neither the simulator nor the policy worked in is ``wait``."""
    worked = {"simulate": simulator["simulate"], "render": simulator["render"], "policy": policy}
    return worked | {"wait": max(0.0, wall - sum(worked.values()))}


@contextlib.contextmanager
def _goes_on(env: PlayedEnv) -> Iterator[None]:
    """Name the env that cannot go on."""
    try:
        yield
    except (GivenUpError, PolicyLost) as error:
        raise VlarigError(f"env {env.number} cannot go on: {error}") from None


async def _worker_ready(worker: Worker, queue: EpisodeQueue) -> bool:
    """Wait until a worker is there; false where all episodes are done before, or it is given up."""
    if worker.absence is None:
        return True
    back, over = asyncio.create_task(worker.found()), asyncio.create_task(queue.wait_until_over())
    try:
        await asyncio.wait({back, over}, return_when=asyncio.FIRST_COMPLETED)
        return back.done() and back.result()
    finally:
        back.cancel()
        over.cancel()
