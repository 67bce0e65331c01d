"""Which envs play what: the harder a task, the more envs (paper, section 4.2: "proportional to task difficulty"); and initial states.

By default each initial state for training is played once. A set that is played again and again costs variety, and provides what other
RL of policies has: the mean success of a state's episodes as the baseline of each (leave-one-out, RLOO: Ahmadian et al. 2024, "Back to
basics"; GRPO counts an episode itself in), and more episodes of the states that are solved sometimes, which alone have a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np

from ..envs.api import Episode
from ..envs.errors import VlarigError

#: Difficulty of a task that the policy always solves: it keeps a share, so that what is known is not forgotten (ours).
EASIEST = 0.05


def allot(envs: int, success: Mapping[str, float]) -> dict[str, int]:
    """The number of envs of each task, ``envs`` in all and at least one each, by largest remainders.

    A task's share is its difficulty, ``1 - success`` and at least :data:`EASIEST`, divided by the sum of all. Shares of the envs are
    rounded down, but to at least one. Then envs go to, or come from, the tasks that are furthest from their shares; of equal ones, the
    first.

    Args:
        envs: Envs of all tasks together.
        success: Task to its success rate, 0 to 1.
    """
    if not success or envs < len(success):
        raise VlarigError(
            f"there are {envs} envs for {len(success)} tasks; expected a task or more, and one env for each at least"
        )
    for task, rate in success.items():
        if not 0 <= rate <= 1:
            raise VlarigError(f"the success rate of {task!r} is {rate}; expected 0 to 1")
    difficulty = {task: max(1 - rate, EASIEST) for task, rate in success.items()}
    shares = {task: envs * each / sum(difficulty.values()) for task, each in difficulty.items()}
    counts = {task: max(1, math.floor(share)) for task, share in shares.items()}
    while sum(counts.values()) < envs:
        counts[max(counts, key=lambda task: shares[task] - counts[task])] += 1
    while sum(counts.values()) > envs:
        counts[min((task for task in counts if counts[task] > 1), key=lambda task: shares[task] - counts[task])] -= 1
    return counts


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
