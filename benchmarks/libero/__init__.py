"""LIBERO: five suites of tabletop manipulation on robosuite."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

_HERE = Path(__file__).parent
_EXPERT = f"{__name__}.expert:LiberoExpert"

PLUGIN = Plugin(
    suites={f"libero_{kind}": f"{__name__}.suites:LIBERO_{kind.upper()}" for kind in ("goal", "spatial", "object", "10", "90")},
    experts={"libero_object": _EXPERT, "libero_spatial": _EXPERT},
    runtimes=(_HERE / "runtime" / "libero.toml",),
    bundles=(_HERE / "assets" / "libero.toml",),
)
