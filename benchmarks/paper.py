"""The tables of the Qwen-VLA paper that rows of ours can be added to."""

from __future__ import annotations

from pathlib import Path

from ..envs.plugins import LeaderboardKeys, Plugin

PLUGIN = Plugin(
    layouts=tuple(
        Path(__file__).parent / "published" / f"{name}.toml" for name in ("table4", "table7", "table8", "table9", "table11")
    ),
    # Benchmarks that no suite here plays. An entry of RoboTwin must say which of two training protocols was followed; a mean represents
    # a robot of RoboCasa only where 100 trials of each task are reported.
    leaderboard=(
        LeaderboardKeys(
            benchmark="robotwin_v2",
            columns={"robotwin_easy": "suite_scores.easy", "robotwin_hard": "suite_scores.hard"},
            remark="training protocol (A or B) is not reported",
        ),
        LeaderboardKeys(
            benchmark="robocasa",
            columns={"robocasa_gr1": "task_scores.reported_avg_gr1"},
            remark="trials of each task are not reported",
        ),
    ),
)
