"""LIBERO: five suites of tabletop manipulation on robosuite."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import LeaderboardKeys, Plugin

_HERE = Path(__file__).parent
_EXPERT = "vlarig.policies.experts.libero:LiberoExpert"

PLUGIN = Plugin(
    suites={f"libero_{kind}": f"{__name__}.suites:LIBERO_{kind.upper()}" for kind in ("goal", "spatial", "object", "10", "90")},
    experts={"libero_object": _EXPERT, "libero_spatial": _EXPERT},
    runtimes=(_HERE / "runtime" / "libero.toml",),
    bundles=(_HERE / "assets" / "libero.toml",),
    leaderboard=(
        LeaderboardKeys(
            benchmark="libero",
            suites={f"libero_{kind}": f"libero_{kind}" for kind in ("spatial", "object", "goal", "10", "90")},
            ranked=("libero_spatial", "libero_object", "libero_goal", "libero_10"),
            columns={"libero": "task_scores.reported_avg"},  # a mean ranks only beside its four parts
            remark="only the mean of the four suites is reported",
        ),
    ),
)
