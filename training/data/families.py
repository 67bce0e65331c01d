"""The families of the pretraining mixture, with their weights (paper, Table 1)."""

from __future__ import annotations

from typing import Literal, get_args

Family = Literal[
    "robot_manipulation",
    "human_egocentric",
    "navigation",
    "synthetic_simulation",
    "general_vision_language",
    "spatial_grounding",
    "driving_vqa",
    "action_caption",
]

#: The names, in the order of the table.
FAMILIES: tuple[Family, ...] = get_args(Family)

#: Percent of the mixture (paper, Table 1). They are printed to one digit and add up to 99.9.
TABLE_1: dict[Family, float] = {
    "robot_manipulation": 74.2,
    "human_egocentric": 6.0,
    "navigation": 7.5,
    "synthetic_simulation": 3.7,
    "general_vision_language": 3.4,
    "spatial_grounding": 2.5,
    "driving_vqa": 2.4,
    "action_caption": 0.2,
}
