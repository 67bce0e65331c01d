"""SimplerEnv: its WidowX tasks and their out-of-distribution variants, on mani-skill 3."""

from __future__ import annotations

from pathlib import Path

from ...envs.plugins import LeaderboardKeys, Plugin

_HERE = Path(__file__).parent
_EXPERT = "vlarig.policies.experts.simpler:SimplerExpert"

PLUGIN = Plugin(
    suites={"simpler_widowx": f"{__name__}.widowx:SIMPLER_WIDOWX", "simpler_ood": f"{__name__}.ood:SIMPLER_OOD"},
    experts={"simpler_ood": _EXPERT, "simpler_widowx": _EXPERT},
    runtimes=(_HERE / "runtime" / "simpler.toml",),
    bundles=(_HERE / "assets" / "simpler_bridge.toml",),
    leaderboard=(
        LeaderboardKeys(
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
    ),
)
