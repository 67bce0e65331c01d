"""What this package adds to vlarig."""

from __future__ import annotations

from pathlib import Path

from vlarig.envs.plugins import Plugin

PLUGIN = Plugin(
    suites={"gantry": f"{__name__}.suite:SUITE"},
    experts={"gantry": f"{__name__}.expert:GantryExpert"},
    runtimes=(Path(__file__).parent / "runtime" / "gantry.toml",),
)
