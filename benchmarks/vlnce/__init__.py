"""Navigation by instructions in continuous environments, VLN-CE: R2R, RxR, and two kinds of navigation data."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import Plugin

_HERE = Path(__file__).parent
_SUITES = {
    name: f"{__name__}.suites:{name.upper()}"
    for name in ("r2r_val_unseen", "rxr_val_unseen", "vln_object_search", "vln_target_tracking")
}

PLUGIN = Plugin(
    suites=_SUITES,
    experts=dict.fromkeys(_SUITES, "vlarig.policies.experts:ShortestPathFollower"),
    runtimes=(_HERE / "runtime" / "vlnce.toml",),
    bundles=tuple(_HERE / "assets" / f"{name}.toml" for name in ("vlnce_r2r", "vlnce_rxr")),
)
