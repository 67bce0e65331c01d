"""The toy simulator's suite: two tasks of twenty initial states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from toy.env import TOY_POINT, TOY_SEEN
from vlarig.benchmarks.captions import Description, Segment
from vlarig.benchmarks.suite import Patience, Suite, Task
from vlarig.envs.api import Camera, Protocol
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.episode import Ensemble

STANDARD = Protocol(
    name="standard",
    version=1,
    step_limit=40,
    cameras=(Camera("ego", 64, 64), Camera("cam_left_wrist", 64, 64)),
    n_action_steps=8,
    success_rule="held",
    hold_steps=2,
)


def _payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    return {"goal": task.name.split("_")[1]}


def _described(
    stages: Sequence[str], truth: Sequence[Mapping[str, np.ndarray]], states: np.ndarray, embodiment: Embodiment
) -> Description:
    """A segment for each stretch of one stage, with the truth at its beginning."""
    assert len(stages) == len(truth) == len(states)
    segments, begin = [], 0
    for stage, stretch in groupby(stages):
        end = begin + len(list(stretch))
        words = f"{stage.capitalize()} to {truth[begin]['goal'].round(2).tolist()} from {truth[begin]['position'].round(2).tolist()}."
        segments.append(Segment(begin, end, stage, words, {"action primitive": stage}))
        begin = end
    return Description(tuple(segments))


TOY_SUITE = Suite(
    name="toy",
    title="A point that reaches a goal (for tests)",
    adapter="toy.env:ToyEnv",
    runtime="toy",
    embodiment=TOY_POINT,
    tasks=tuple(Task(name, initial_states=tuple(range(20))) for name in ("reach_red", "reach_blue")),
    protocols=(STANDARD,),
    source="made for vlarig's tests",
    payload=_payload,
    training=_payload,
    describer=_described,
)

#: Another way to run the same: it waits first, shows small mirrored images, and sends more requests.
QUICK = replace(
    STANDARD,
    name="quick",
    cameras=(Camera("ego", 32, 32, mirror=True), Camera("cam_left_wrist", 32, 32, mirror=True)),
    n_action_steps=4,
    wait_steps=2,
    wait_action=(1.0, 0.0, -1.0),
    gripper="binary",
)
TWO_WAYS_SUITE = replace(TOY_SUITE, name="two_ways", protocols=(STANDARD, QUICK))

#: Steps that are combined from several chunks.
ENSEMBLED = replace(STANDARD, name="ensembled", n_action_steps=1, ensemble=Ensemble("adaptive", horizon=4, alpha=1.0))

#: The same with faults; see :mod:`toy.faulty`.
FAULTY_SUITE = replace(
    TOY_SUITE, name="faulty", adapter="toy.faulty:FaultyEnv", protocols=(STANDARD, ENSEMBLED), patience=Patience(step=0.25)
)
DRIFTING_SUITE = replace(TOY_SUITE, name="drifting", adapter="toy.faulty:DriftingEnv")
LEAKY_SUITE = replace(TOY_SUITE, name="leaky", adapter="toy.faulty:LeakyEnv")
STUMBLING_SUITE = replace(TOY_SUITE, name="stumbling", adapter="toy.faulty:StumblingEnv", patience=Patience(load=3.0))
HOARDING_SUITE = replace(TOY_SUITE, name="hoarding", adapter="toy.faulty:HoardingEnv")
SLOW_SUITE = replace(TOY_SUITE, name="slow", adapter="toy.slow:SlowEnv")

#: A short episode without images, in which an aim that is a little off fails.
BRIEF = replace(STANDARD, step_limit=24, cameras=(), success_rule="first", hold_steps=1)
SEEN_SUITE = replace(
    TOY_SUITE,
    name="seen",
    adapter="toy.env:SeenEnv",
    embodiment=TOY_SEEN,
    protocols=(BRIEF, replace(ENSEMBLED, cameras=())),
)
