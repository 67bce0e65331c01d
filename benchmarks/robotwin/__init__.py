"""RoboTwin 2.0, and DOMINO, which is a fork of it."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

_HERE = Path(__file__).parent
_EXPERT = "vlarig.policies.experts:PlaybackExpert"

_SUITES = {
    name: f"{__name__}.suites:{name.upper()}"
    for name in ("robotwin_easy", "robotwin_hard", "robotwin_easy_pose", "robotwin_hard_pose")
}
_SUITES |= {name: f"{__name__}.domino:{name.upper()}" for name in ("domino", "domino_level2", "domino_level3", "domino_random")}

PLUGIN = Plugin(
    suites=_SUITES,
    experts=dict.fromkeys(_SUITES, _EXPERT),
    runtimes=(_HERE / "runtime" / "robotwin.toml",),
    bundles=tuple(_HERE / "assets" / f"{name}.toml" for name in ("robotwin_source", "robotwin_assets", "domino_source")),
)
