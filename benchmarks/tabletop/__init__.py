"""The embedded suite: tabletop tasks of our own on robosuite, without data files."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

PLUGIN = Plugin(
    suites={"tabletop": f"{__name__}.suite:TABLETOP"},
    experts={"tabletop": "vlarig.policies.experts.tabletop:TabletopExpert"},
    runtimes=(Path(__file__).parent / "runtime" / "tabletop.toml",),
)
