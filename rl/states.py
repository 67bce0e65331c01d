"""Initial states that are played again and again, so that episodes from one state can be compared with each other.

By default each initial state for training is played once. A set of them costs variety, and provides what other RL of policies has: the
mean success of a state's episodes as the baseline of each (leave-one-out, RLOO: Ahmadian et al. 2024, "Back to basics"; GRPO counts an
episode itself in), and more episodes of the states that are solved sometimes, which alone have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..envs.api import Episode

#: State, and how often it was solved and played.
Known = Sequence[tuple[int, int]]


def weights(known: Known) -> np.ndarray:
    """How often states are to be played, ``float64[states]`` of sum 1: by the variance of their success.

    The rate is (successes + 1) / (episodes + 2), so that a state that was never played counts as solved half of the time.
    """
    solved, played = np.array(known, np.float64).T
    rate = (solved + 1) / (played + 2)
    return rate * (1 - rate) / (rate * (1 - rate)).sum()


class StateStream(Iterator[Episode]):
    """The endless episodes of one env, of a set of initial states.

    Each sampling of a state depends on what was known of the states then, so another process needs :attr:`numbers` to give the same.

    Args:
        make: Gives the episode of a state's number and of a repeat of it.
        states: How many states there are.
        first: Number of the env's first episode among all of its task.
        apart: How far apart the numbers of its episodes are.
        seed: Of the sampling.

    Attributes:
        numbers: The states that were sampled, or that are to be given again first.
        weights: How often each state is to be sampled from now on; ``None``: by turns.
    """

    def __init__(self, make: Callable[[int, int], Episode], states: int, first: int, apart: int, seed: int) -> None:
        self._make = make
        self._states = states
        self._first = first
        self._apart = apart
        self._seed = seed
        self._given = 0
        self.numbers: list[int] = []
        self.weights: np.ndarray | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Episode:
        place = self._first + self._given * self._apart
        if self._given == len(self.numbers):
            rng = np.random.default_rng([self._seed, place])
            by_turns = place % self._states
            self.numbers.append(by_turns if self.weights is None else int(rng.choice(self._states, p=self.weights)))
        number = self.numbers[self._given]
        self._given += 1
        return self._make(number, place)


def over_states(
    states: Sequence[tuple[str, int]], rewards: Tensor, ended: Tensor, totals: Mapping[tuple[str, int], tuple[int, int]]
) -> Tensor:
    """Advantages of whole episodes over the others from the same initial state, ``float32[N, T]``.

    Each chunk of an episode gets what the episode achieved less the mean of the others; where there is no other, less that of all of
    the rollout. An episode that the rollout cut at its end is not known yet: 0.

    Args:
        states: ``[N * T]``, task and initial state of each chunk.
        rewards: ``float32[N, T]``, 1 where an episode ended in success.
        ended: ``bool[N, T]``.
        totals: Task and state to the successes and episodes that ended in the rollout, over all processes.
    """
    advantages = torch.zeros_like(rewards)
    solved, played = (sum(each[index] for each in totals.values()) for index in (0, 1))
    count = rewards.shape[1]
    for env in range(len(rewards)):
        begin = 0
        for end in ended[env].nonzero().flatten().tolist():
            success = float(rewards[env, end])
            own = totals[states[env * count + end]]
            others, rivals = own if own[1] > 1 else (solved, played)
            advantages[env, begin : end + 1] = success - (others - success) / max(rivals - 1, 1)
            begin = end + 1
    return advantages
