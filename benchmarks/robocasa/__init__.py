"""RoboCasa-GR1: 24 tabletop tasks of a humanoid."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

_HERE = Path(__file__).parent
_SUITES = {name: f"{__name__}.suite:{name.upper()}" for name in ("robocasa_gr1", "robocasa_gr1_gr00t")}

PLUGIN = Plugin(
    suites=_SUITES,
    experts=dict.fromkeys(_SUITES, "vlarig.policies.experts:PlaybackExpert"),
    runtimes=(_HERE / "runtime" / "robocasa.toml",),
    bundles=(_HERE / "assets" / "robocasa_gr1.toml",),
)
