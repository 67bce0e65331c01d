"""Shards: fixed parts of a run's episodes, for machines without a connection.

Shard ``2/4`` runs the second quarter. The episodes are dealt like cards, one to each shard in turn. Two rules:

- Each task's episodes are shuffled first. Benchmarks number their initial states in some order, often of difficulty. Dealt in that
  order to as many shards as a task has initial states, shard ``k`` would get initial state ``k`` of every task, and all that is hard or
  easy about it. The shuffle sorts by :attr:`Episode.seed`, a hash of suite, task, variant, initial state and repeat: it is the same on
  every machine for ever, needs no generator, and puts the same initial states into a shard under every protocol and for every policy.
- Dealing continues from one task, and one suite, to the next without starting over. So shards differ by one episode at most, in all and
  in every task.

A shard has the identity of the whole run: its results belong to the whole run, and :mod:`vlarig.results.merging` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..envs.api import Episode
from ..envs.errors import VlarigError
from .manifest import Manifest
from .records import TaskKey


@dataclass(frozen=True)
class Shard:
    """One part of a run: part ``number``, from 1, of ``count``."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that is written ``I/N``."""
        written = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if written is None:
            raise VlarigError(f"shard is {text!r}; expected I/N, as in 2/4 for the second of four parts")
        shard = cls(int(written[1]), int(written[2]))
        if not 1 <= shard.number <= shard.count:
            wanted = f"I from 1 to {shard.count}" if shard.count else "N of 1 or more"
            raise VlarigError(f"shard is {text!r}; expected I/N with {wanted}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share_of(self, dealt: int) -> int:
        """How many of the first ``dealt`` episodes are the shard's."""
        return (dealt + self.count - self.number) // self.count


def take_share(episodes: Sequence[Episode], shard: Shard) -> list[Episode]:
    """The shard's part of ``episodes``, which are all of a run's, in their order."""
    suites: dict[tuple[str, str], dict[tuple[str, str], list[Episode]]] = {}
    for episode in episodes:
        place = (episode.suite, f"{episode.protocol.name}@{episode.protocol.version}")
        suites.setdefault(place, {}).setdefault((episode.task, episode.variant), []).append(episode)
    deck = [
        episode
        for tasks in suites.values()
        for initial_states in tasks.values()
        for episode in sorted(initial_states, key=lambda episode: (episode.seed, episode.initial_state, episode.repeat))
    ]
    share = {episode.key for episode in deck[shard.number - 1 :: shard.count]}
    return [episode for episode in episodes if episode.key in share]


def take_initial_states(episodes: Sequence[Episode], part: Shard) -> list[Episode]:
    """The episodes of a part of each task's initial states, with all their repeats: no initial state is in two parts.

    Initial states are shuffled as for a shard, so a part has the same ones under every protocol and for every policy.
    """
    tasks: dict[tuple[str, str, str], dict[int, int]] = {}
    for episode in episodes:
        states = tasks.setdefault((episode.suite, episode.task, episode.variant), {})
        states[episode.initial_state] = replace(episode, repeat=0).seed
    taken = {
        (*task, state)
        for task, states in tasks.items()
        for state in sorted(states, key=lambda state: (states[state], state))[part.number - 1 :: part.count]
    }
    return [each for each in episodes if (each.suite, each.task, each.variant, each.initial_state) in taken]


def owed_episodes(manifest: Manifest) -> dict[TaskKey, int]:
    """The number of episodes of each task in a run's folder: a shard's share, or all of them."""
    shard = Shard.parse(manifest.record.shard or "1/1")
    owed: dict[TaskKey, int] = {}
    dealt = 0
    for task, episodes in manifest.identity.planned.items():
        owed[task] = shard.share_of(dealt + episodes) - shard.share_of(dealt)
        dealt += episodes
    return owed
