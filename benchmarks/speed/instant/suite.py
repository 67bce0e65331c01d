"""The suite over :class:`~instant.env.InstantEnv`: episodes of eight chunks of sixteen steps."""

from __future__ import annotations

from vlarig.benchmarks.suite import Suite, Task
from vlarig.envs.api import Camera, Protocol
from vlarig.envs.tabletop.robot import TABLETOP_PANDA

CHUNKS = 8

INSTANT = Suite(
    name="instant",
    title="Nothing, quickly",
    adapter="instant.env:InstantEnv",
    runtime="tabletop",
    embodiment=TABLETOP_PANDA,
    tasks=(Task("wait", initial_states=tuple(range(100_000))),),
    protocols=(
        Protocol(
            name="standard",
            version=1,
            step_limit=16 * CHUNKS,
            cameras=(Camera("ego", 256, 256), Camera("cam_left_wrist", 256, 256)),
            n_action_steps=16,
        ),
    ),
    source="made for measuring",
)
