"""SimplerEnv's tasks, each from 240 initial states like those for training, which a tuning of a million episodes does not reach.

    cd recipes/ppo
    vlarig sweep new_states:NEW_STATES --tasks put_spoon_on_towel --protocol chunked --episodes 240 --policy qwen-vla --run RUN

The protocols' own initial states are corners of squares, with the object along the hand or across it. Here it lies anywhere on the
table, with any turn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlarig.benchmarks.simpler.widowx import SIMPLER_WIDOWX
from vlarig.benchmarks.suite import Task
from vlarig.envs.api import Protocol

#: Number of the first, among those for training.
FIRST = 1_000_000


def payload(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    assert SIMPLER_WIDOWX.training is not None
    return SIMPLER_WIDOWX.training(task, FIRST + number, protocol)


NEW_STATES = replace(
    SIMPLER_WIDOWX,
    name="simpler_new_states",
    title="SimplerEnv's four tasks from initial states that are like those for training",
    tasks=tuple(replace(task, initial_states=tuple(range(240))) for task in SIMPLER_WIDOWX.tasks),
    payload=payload,
)
