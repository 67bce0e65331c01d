"""Initial states that come again: how they are sampled, and what their episodes are compared with."""

from __future__ import annotations

import numpy as np
import torch
from toy.suite import TOY_SUITE as SUITE

from vlarig.envs.api import Episode
from vlarig.rl.advantages import over_states
from vlarig.rl.allotment import StateStream, weights

TASK = SUITE.tasks[0]


def episode(number: int, repeat: int) -> Episode:
    return Episode(SUITE.name, SUITE.protocols[0], TASK.name, "training", number, repeat)


def stream(env: int = 0, seed: int = 0) -> StateStream:
    return StateStream(episode, states=4, first=env, apart=3, seed=seed)


def test_by_turns_every_state_is_played_as_often_and_no_episode_twice() -> None:
    sampled = [next(each) for each in map(stream, range(3)) for _ in range(8)]
    assert np.bincount([each.initial_state for each in sampled]).tolist() == [6, 6, 6, 6]
    assert len({each.key for each in sampled}) == 24


def test_states_that_are_solved_sometimes_come_more_often_and_the_same_ones_come_again() -> None:
    own = stream()
    own.weights = weights([(0, 50), (50, 50), (25, 50), (0, 0)])
    sampled = [next(own).initial_state for _ in range(400)]
    counts = np.bincount(sampled, minlength=4)
    assert min(counts[2:]) > 8 * max(counts[:2]) > 0
    again = stream()
    again.numbers = own.numbers[:100]
    assert [next(again).initial_state for _ in range(100)] == sampled[:100]


def test_an_episode_is_compared_with_the_others_of_its_state() -> None:
    states = [("a", 0), ("a", 0), ("a", 1), ("a", 0), ("a", 0), ("a", 2)]
    rewards = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    ended = torch.tensor([[False, True, False], [True, True, True]])
    totals = {("a", 0): (1, 3), ("a", 2): (1, 1)}
    found = over_states(states, rewards, ended, totals)
    # of state 0: a success in two chunks, then two failures; state 1 is cut; state 2 came once, beside 1 success of 3
    expected = torch.tensor([[1.0, 1.0, 0.0], [-0.5, -0.5, 1 - 1 / 3]])
    torch.testing.assert_close(found, expected)
