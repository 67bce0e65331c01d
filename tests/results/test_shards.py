"""Shards: fixed, disjoint, balanced parts of a run, the same everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_runs import PROTOCOL, make_episode, make_manifest

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Episode
from vlarig.envs.errors import VlarigError
from vlarig.results.ledger import TaskKey
from vlarig.results.manifest import Identity, Manifest, Surroundings
from vlarig.results.planning import suite_plans
from vlarig.results.shards import Shard, owed_episodes, take_share


def task_of(episode: Episode) -> TaskKey:
    return TaskKey(episode.suite, f"{episode.protocol.name}@{episode.protocol.version}", episode.task, episode.variant)


@st.composite
def plans(draw: st.DrawFn) -> list[Episode]:
    """Episodes of some suites and tasks, task by task."""
    sizes = draw(st.lists(st.lists(st.integers(1, 12), max_size=4), max_size=3))
    return [
        make_episode(initial_state, f"task{number}", f"suite{place}")
        for place, tasks in enumerate(sizes)
        for number, size in enumerate(tasks)
        for initial_state in range(size)
    ]


@given(plans(), st.integers(1, 40))
def test_shards_are_the_whole_split_evenly_in_all_and_in_every_task(episodes: list[Episode], count: int) -> None:
    shares = [take_share(episodes, Shard(number, count)) for number in range(1, count + 1)]
    keys = [episode.key for share in shares for episode in share]
    assert sorted(keys) == sorted(episode.key for episode in episodes)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    tasks = [Counter(map(task_of, share)) for share in shares]
    for task in {task_of(episode) for episode in episodes}:
        assert max(each[task] for each in tasks) - min(each[task] for each in tasks) <= 1


@given(plans(), st.integers(1, 12), st.data())
def test_what_a_manifest_says_is_owed_is_what_the_shard_takes(episodes: list[Episode], count: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(1, count)), count)
    identity = make_manifest().identity.model_dump() | {"suites": suite_plans(episodes), "episodes": len(episodes)}
    manifest = Manifest(identity=Identity(**identity), record=Surroundings(shard=str(shard)))
    owed = owed_episodes(manifest)
    assert +Counter(owed) == Counter(map(task_of, take_share(episodes, shard)))
    whole = manifest.model_copy(update={"record": Surroundings()})
    assert owed_episodes(whole) == Counter(map(task_of, episodes))


def test_the_split_is_the_same_for_ever() -> None:
    """A change here would mix the shards of runs started before it with those started after it."""
    share = take_share(load_suite("libero_goal").episodes(), Shard(2, 50))
    # The second of each task's starts when these are sorted by SHA-256 of "libero_goal/TASK/base/START/0", by the first 32 bits.
    assert [episode.initial_state for episode in share] == [17, 14, 45, 19, 30, 41, 15, 39, 21, 38]


def test_with_as_many_shards_as_initial_states_a_shard_does_not_get_the_same_initial_state_of_every_task() -> None:
    episodes = load_suite("libero_goal").episodes()
    for number in range(1, 51):
        share = take_share(episodes, Shard(number, 50))
        assert len({episode.task for episode in share}) == len(share) == 10
        assert Counter(episode.initial_state for episode in share).most_common(1)[0][1] <= 4


def test_a_shard_has_the_same_initial_states_under_every_protocol() -> None:
    episodes = [make_episode(initial_state) for initial_state in range(20)]
    derived = [replace(episode, protocol=PROTOCOL.derive(n_action_steps=2)) for episode in episodes]
    initial_states = [[episode.initial_state for episode in take_share(each, Shard(1, 3))] for each in (episodes, derived)]
    assert initial_states[0] == initial_states[1]


def test_a_shard_keeps_the_order_of_the_plan() -> None:
    initial_states = [
        episode.initial_state
        for episode in take_share([make_episode(initial_state) for initial_state in range(30)], Shard(1, 2))
    ]
    assert initial_states == sorted(initial_states)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0/4", "I from 1 to 4"),
        ("5/4", "I from 1 to 4"),
        ("3/0", "N of 1 or more"),
        ("0/0", "N of 1 or more"),
        ("2", "as in 2/4"),
        ("a/b", "as in 2/4"),
        ("-1/4", "as in 2/4"),
        ("1/4/2", "as in 2/4"),
        ("", "as in 2/4"),
        ("1/" + "9" * 5000, "as in 2/4"),
    ],
)
def test_what_is_no_shard_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(VlarigError, match=rf"^shard is '{text}'; expected I/N.*{wanted}"):
        Shard.parse(text)


def test_a_shard_is_written_in_one_way() -> None:
    assert str(Shard.parse("02/010")) == "2/10"
