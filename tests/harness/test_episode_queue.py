"""The queue hands out every episode once, and keeps a worker with its task."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from toy.suite import TOY_SUITE

from vlarig.harness.episode_queue import EpisodeQueue


@given(st.integers(0, 12), st.lists(st.integers(0, 3), min_size=40, max_size=60))
def test_every_episode_is_handed_out_once_whoever_asks(per_task: int, workers: list[int]) -> None:
    episodes = TOY_SUITE.episodes(per_task=per_task)
    queue = EpisodeQueue(episodes)
    taken = [episode for worker in workers if (episode := queue.take(worker)) is not None]
    assert sorted(episode.key for episode in taken) == sorted(episode.key for episode in episodes)
    assert len(queue) == 0
    assert queue.take(0) is None


def test_a_worker_stays_with_its_task_and_helps_with_another_at_the_end() -> None:
    queue = EpisodeQueue(TOY_SUITE.episodes(per_task=6))
    first = [queue.take(0).task for _ in range(3)]
    second = [queue.take(1).task for _ in range(5)]
    rest = [queue.take(0).task for _ in range(4)]
    assert [task for task, _ in groupby(first)] == ["reach_red"]
    assert [task for task, _ in groupby(second)] == ["reach_blue"]
    assert rest == ["reach_red"] * 3 + ["reach_blue"]
