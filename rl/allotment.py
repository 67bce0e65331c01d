"""How many envs each task gets: the harder a task, the more (paper, section 4.2: "proportional to task difficulty")."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
