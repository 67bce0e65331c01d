"""The embedded suites: tabletop tasks of our own on robosuite, without data files."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

PLUGIN = Plugin(
    suites={
        "tabletop": f"{__name__}.suite:TABLETOP",
        "tabletop_states": f"{__name__}.states:TABLETOP_STATES",
        "tabletop_tasks": f"{__name__}.generated:TABLETOP_TASKS",
    },
    experts=dict.fromkeys(("tabletop", "tabletop_states", "tabletop_tasks"), f"{__name__}.expert:TabletopExpert"),
    runtimes=(Path(__file__).parent / "runtime" / "tabletop.toml",),
)
