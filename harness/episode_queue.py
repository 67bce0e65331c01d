"""The queue of a sweep: hands out episodes so that one task's meet the same worker, for as long as there are enough tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..envs.api import Episode


class EpisodeQueue:
    """The episodes that a sweep still owes. Which worker runs an episode never changes its result."""

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._by_task: dict[str, deque[Episode]] = {}
        for episode in episodes:
            self._by_task.setdefault(f"{episode.task}/{episode.variant}", deque()).append(episode)
        self._task_of: dict[int, str] = {}

    def __len__(self) -> int:
        return sum(len(episodes) for episodes in self._by_task.values())

    def take(self, worker: int) -> Episode | None:
        """The next episode for a worker, or ``None`` when all are handed out.

        A worker keeps to its task. When that is done it takes a task that nobody works on, or else helps with the one that has
        most left.
        """
        left = {task: len(episodes) for task, episodes in self._by_task.items() if episodes}
        if not left:
            return None
        task = self._task_of.get(worker)
        if task not in left:
            others = set(self._task_of.values())
            free = [task for task in left if task not in others]
            task = free[0] if free else max(left, key=lambda name: left[name])
            self._task_of[worker] = task
        return self._by_task[task].popleft()
