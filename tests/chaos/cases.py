"""The sweeps that storms go over: short ones of each simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chaos.settings import Settings
from vlarig.benchmarks.registry import load_suite


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


def case_of(suite: str) -> Case:
    """The case of a suite, or of the toy: of another suite than the embedded one two of its tasks on trial, cut short."""
    if suite in CASES:
        return CASES[suite]
    trial = load_suite(suite).trial
    options = ("--policy-options", f"step_limit={trial.steps}", "--episodes", "1", "--tasks", *trial.tasks[:2])
    return Case(
        ("sweep", suite, "--policy", "chaos.policies:FarsightedStormPolicy", *options),
        2,
        placements=((2, 1), (1, 2)),
        settings=Settings(load=90.0, reset=60.0, step=8.0, margin=2.0, memory=3 * 2**30, gap=(0.5, 2.0)),
        kills=10,
        share=1,
    )


CASES: Mapping[str, Case] = {"toy": TOY, "tabletop": TABLETOP}
