"""SimplerEnv: its WidowX tasks and their out-of-distribution variants, on mani-skill 3."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

_HERE = Path(__file__).parent
_EXPERT = f"{__name__}.expert:SimplerExpert"

PLUGIN = Plugin(
    suites={"simpler_widowx": f"{__name__}.widowx:SIMPLER_WIDOWX", "simpler_ood": f"{__name__}.ood:SIMPLER_OOD"},
    experts={"simpler_ood": _EXPERT, "simpler_widowx": _EXPERT},
    runtimes=(_HERE / "runtime" / "simpler.toml",),
    bundles=(_HERE / "assets" / "simpler_bridge.toml",),
)
