"""The queue hands out every episode once, keeps a worker with its task, and hands out again what was put back."""

from __future__ import annotations

import asyncio
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from toy.suite import TOY_SUITE

from vlarig.harness.engine import EpisodeQueue


@given(st.integers(0, 12), st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_every_episode_is_handed_out_once_to_any_worker(per_task: int, workers: list[int]) -> None:
    episodes = TOY_SUITE.episodes(per_task=per_task)
    taken = []

    async def work(queue: EpisodeQueue, worker: int) -> None:
        while (episode := await queue.take(worker)) is not None:
            taken.append(episode.key)
            await asyncio.sleep(0)
            queue.done()

    async def run() -> None:
        queue = EpisodeQueue(episodes)
        await asyncio.gather(*(work(queue, worker) for worker in workers))
        assert len(queue) == 0
        assert queue.over

    asyncio.run(run())
    assert sorted(taken) == sorted(episode.key for episode in episodes)


def test_a_worker_stays_with_its_task_and_helps_with_another_at_the_end() -> None:
    async def run() -> list[list[str]]:
        queue = EpisodeQueue(TOY_SUITE.episodes(per_task=6))
        return [[(await queue.take(worker)).task for _ in range(count)] for worker, count in ((0, 3), (1, 5), (0, 4))]

    first, second, rest = asyncio.run(run())
    assert [task for task, _ in groupby(first)] == ["reach_red"]
    assert [task for task, _ in groupby(second)] == ["reach_blue"]
    assert rest == ["reach_red"] * 3 + ["reach_blue"]


def test_an_episode_that_is_put_back_is_the_next_of_its_task() -> None:
    async def run() -> None:
        first, second, *_ = [episode for episode in TOY_SUITE.episodes(per_task=3) if episode.task == "reach_red"]
        queue = EpisodeQueue([first, second])
        assert await queue.take(0) == first
        queue.put_back(first)
        assert [await queue.take(0), await queue.take(1)] == [first, second]

    asyncio.run(run())


def test_an_episode_that_is_put_back_goes_to_a_worker_that_waits_for_the_end() -> None:
    async def run() -> None:
        queue = EpisodeQueue(TOY_SUITE.episodes(per_task=1)[:1])
        episode = await queue.take(0)
        waiting = [asyncio.create_task(queue.take(worker)) for worker in (1, 2)]
        over = asyncio.create_task(queue.wait_until_over())
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        queue.put_back(episode)
        await asyncio.sleep(0.01)
        assert [task.result() for task in waiting if task.done()] == [episode]
        assert not over.done()
        queue.done()
        await asyncio.wait_for(over, 5)
        results = [await task for task in waiting]
        assert results.count(None) == 1
        assert results.count(episode) == 1

    asyncio.run(run())
