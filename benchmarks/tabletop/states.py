"""The suite ``tabletop_states``: the embedded suite without its hardest part, seeing, to develop learning on.

The state says where the current object and goal are, and no camera shows anything. ``place_beside`` is missing, whose side is
in the instruction alone.
"""

from __future__ import annotations

from dataclasses import replace

from ...envs.tabletop.robot import TABLETOP_PANDA_STATES
from ..trial import Trial
from .suite import STANDARD, TABLETOP

TABLETOP_STATES = replace(
    TABLETOP,
    name="tabletop_states",
    title="The embedded suite for policies that do not see: their state says where objects are",
    adapter="vlarig.envs.tabletop.states_env:TabletopStatesEnv",
    embodiment=TABLETOP_PANDA_STATES,
    tasks=tuple(task for task in TABLETOP.tasks if task.name != "place_beside"),
    protocols=(replace(STANDARD, cameras=()),),
    assorted=None,
    describer=None,
    trial=Trial(tasks=TABLETOP.trial.tasks),
)
