"""The queue of a sweep: hands out episodes so that a task's episodes run on one worker, while there are enough tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from ..envs.api import Episode


class EpisodeQueue:
    """The episodes that a sweep still owes. Which worker runs an episode never changes its result.

    Each episode that was taken is either :meth:`done`, or :meth:`put_back` where its worker is lost.
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
        """An episode that was taken must be started again, by the next worker."""
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
