"""Where vla-eval's leaderboard has the numbers of our suites.

The source is leaderboard/benchmarks/*.md of allenai/vla-evaluation-harness@e1ee9ad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Keys:
    """Where a benchmark's numbers are.

    Attributes:
        benchmark: Key of the benchmark there.
        suites: Name of a suite of ours to its key in ``suite_scores``.
        tasks: Names of a suite and of one of its tasks to their key in ``task_scores``.
        ranked: Suites whose mean is the overall score; empty where scores are not averaged.
        columns: Name of a published column to its place, such as ``task_scores.reported_avg``.
        remark: Remark on published numbers there.
    """

    benchmark: str
    suites: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[tuple[str, str], str] = field(default_factory=dict)
    ranked: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


KEYS = (
    Keys(
        benchmark="libero",
        suites={f"libero_{kind}": f"libero_{kind}" for kind in ("spatial", "object", "goal", "10", "90")},
        ranked=("libero_spatial", "libero_object", "libero_goal", "libero_10"),
        columns={"libero": "task_scores.reported_avg"},  # a mean ranks only beside its four parts
        remark="only the mean of the four suites is reported",
    ),
    # A mean represents a robot of RoboCasa only where 100 trials of each task are reported.
    Keys(
        benchmark="robocasa",
        columns={"robocasa_gr1": "task_scores.reported_avg_gr1"},
        remark="trials of each task are not reported",
    ),
    # An entry must say which of two training protocols was followed.
    Keys(
        benchmark="robotwin_v2",
        suites={"robotwin_easy": "easy", "robotwin_hard": "hard"},
        columns={"robotwin_easy": "suite_scores.easy", "robotwin_hard": "suite_scores.hard"},
        remark="training protocol (A or B) is not reported",
    ),
    Keys(
        benchmark="simpler_env",
        suites={"simpler_widowx": "widowx_vm"},
        tasks={
            ("simpler_widowx", "put_spoon_on_towel"): "put_spoon_on_towel_vm",
            ("simpler_widowx", "put_carrot_on_plate"): "put_carrot_on_plate_vm",
            ("simpler_widowx", "stack_green_on_yellow"): "stack_block_vm",
            ("simpler_widowx", "put_eggplant_in_basket"): "put_eggplant_in_basket_vm",
        },
        columns={"simpler_widowx": "suite_scores.widowx_vm"},
    ),
)
