"""The sweeps that storms go over: short ones of each simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chaos.settings import Settings


@dataclass(frozen=True)
class Case:
    """A sweep, and the storms that suit it.

    Attributes:
        words: Its command line.
        episodes: Episodes that it has.
        placements: Workers and envs of its drivers, in turn.
        settings: How hard the storm blows, and how patient the rig is.
        kills: Kills of one storm in a long campaign.
        share: Its part of a campaign's kills, beside the other cases' shares.
    """

    words: tuple[str, ...]
    episodes: int
    placements: tuple[tuple[int, int], ...] = ((2, 2), (4, 1), (1, 8))
    settings: Settings = field(default_factory=Settings)
    kills: int = 25
    share: int = 8


TOY = Case(
    ("sweep", "toy", "--policy", "chaos.policies:ReadingStormPolicy", "--episodes", "8"),
    16,
    settings=Settings(load=10.0, step=1.0, gap=(0.05, 0.3)),
)
TABLETOP = Case(("sweep", "tabletop", "--policy", "chaos.policies:StormPolicy", "--episodes", "2"), 10)
LIBERO = Case(
    (
        *("sweep", "libero_spatial", "--policy", "chaos.policies:WanderingStormPolicy", "--episodes", "1", "--tasks"),
        "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
    ),
    2,
    placements=((2, 1), (1, 2)),
    settings=Settings(load=90.0, reset=60.0, step=3.0, margin=2.0, memory=3 * 2**30, gap=(0.5, 2.0)),
    kills=10,
    share=1,
)
SIMPLER = Case(
    (
        *("sweep", "simpler_widowx", "--protocol", "chunked", "--policy", "chaos.policies:WanderingStormPolicy"),
        *("--episodes", "1", "--tasks", "stack_green_on_yellow", "put_spoon_on_towel"),
    ),
    2,
    placements=((2, 1), (1, 2)),
    settings=Settings(load=90.0, reset=60.0, step=8.0, margin=2.0, memory=3 * 2**30, gap=(0.5, 2.0)),
    kills=10,
    share=1,
)
CASES: Mapping[str, Case] = {"toy": TOY, "tabletop": TABLETOP, "libero": LIBERO, "simpler": SIMPLER}
