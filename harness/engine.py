"""The engine: moves episodes through envs, and hands every transition to its sinks.

A sweep and RL differ in where an env's next episode comes from and in when to stop: :meth:`Engine.sweep` empties a queue that all envs
share; :meth:`Engine.collect` takes an exact number of chunks from each env's own endless stream and keeps the envs as they are, in
mid-episode, for the next call. What is lost with a machine or with the policy's process goes back into the queue; an env with a stream
waits for its machine, and ends the call where the policy's state of its episode is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from ..envs.api import Episode, Needs
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.messages import LOST
from ..policies.api import PolicyLost
from ..policies.batching import Batcher
from ..results.records import Attempt
from .children.liveness import together
from .children.supervisor import ChildLostError
from .durable_env import DurableEnv, GivenUpError, Losses
from .played_env import EnvProgress, PlayedEnv
from .sinks import Sink, Transition
from .workers import Worker

T = TypeVar("T")


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
        self._seed = seed
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
        self.envs.append(PlayedEnv(self._first + len(self.envs), sim, self.batcher, self.embodiment, self._seed, stream))
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
        while env.given < progress.given:
            episode = await env.next_episode()
        if episode is not None and progress.actions is not None:
            with _goes_on(env):
                await env.begin(episode, progress.actions)

    async def _collect_env(self, env: PlayedEnv, chunks: int, keep: Callable[[Transition], T]) -> list[T]:
        kept = []
        with self.batcher.one_more_env(), _goes_on(env):
            if not env.under_way:
                await env.begin(await env.next_episode())
            for _ in range(chunks):
                transition = await env.advance()
                if transition.result.over:
                    transition = replace(transition, next_first=await env.begin(await env.next_episode()))
                await self._emit(transition)
                kept.append(keep(transition))
        return kept

    async def _emit(self, transition: Transition) -> None:
        for sink in self._sinks:
            await sink.emit(transition)

    async def _note(self, attempt: Attempt) -> None:
        for sink in self._sinks:
            await sink.fault(attempt)


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


class EpisodeQueue:
    """The episodes that a sweep still owes. Which worker runs an episode never changes its result.

    Each episode that was taken is either :meth:`done`, or :meth:`put_back` where its worker, or the policy's process, is lost.
    """

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._by_task: dict[str, deque[Episode]] = {}
        for episode in episodes:
            self._by_task.setdefault(_task(episode), deque()).append(episode)
        self._task_of: dict[int, str] = {}
        self._under_way = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Number of episodes that are not taken."""
        return sum(len(episodes) for episodes in self._by_task.values())

    @property
    def over(self) -> bool:
        return not len(self) and not self._under_way

    async def take(self, worker: int) -> Episode | None:
        """The next episode for a worker, or ``None`` when all are done; waits while none is left but one may be put back.

        A worker keeps to its task. When that is done it takes a task without a worker, or else helps with the one that has most left.
        """
        while (task := self._choose(worker)) is None:
            if self.over:
                return None
            await self._change()
        self._task_of[worker] = task
        self._under_way += 1
        return self._by_task[task].popleft()

    def done(self) -> None:
        """An episode that was taken is finished, or given up."""
        self._under_way -= 1
        self._changed.set()

    def put_back(self, episode: Episode) -> None:
        """An episode that was taken must be started again: it is the next of its task."""
        self._by_task[_task(episode)].appendleft(episode)
        self.done()

    async def wait_until_over(self) -> None:
        while not self.over:
            await self._change()

    def _choose(self, worker: int) -> str | None:
        left = {task: len(episodes) for task, episodes in self._by_task.items() if episodes}
        task = self._task_of.get(worker)
        if task in left or not left:
            return task if left else None
        others = set(self._task_of.values())
        free = [task for task in left if task not in others]
        return free[0] if free else max(left, key=lambda name: left[name])

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _task(episode: Episode) -> str:
    return f"{episode.task}/{episode.variant}"
