"""RoboCasa-GR1: 24 tabletop tasks of a humanoid."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import LeaderboardKeys, Plugin

_HERE = Path(__file__).parent
_SUITES = {name: f"{__name__}.suite:{name.upper()}" for name in ("robocasa_gr1", "robocasa_gr1_gr00t")}

PLUGIN = Plugin(
    suites=_SUITES,
    experts=dict.fromkeys(_SUITES, "vlarig.policies.experts.playback:PlaybackExpert"),
    runtimes=(_HERE / "runtime" / "robocasa.toml",),
    bundles=(_HERE / "assets" / "robocasa_gr1.toml",),
    # A mean represents a robot of RoboCasa only where 100 trials of each task are reported.
    leaderboard=(
        LeaderboardKeys(
            benchmark="robocasa",
            columns={"robocasa_gr1": "task_scores.reported_avg_gr1"},
            remark="trials of each task are not reported",
        ),
    ),
)
