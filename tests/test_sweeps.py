"""The suites with scripted experts can be solved, and the embedded one only by reading the instruction.

The full sweeps, of all initial states, are run by hand; ``tests/sweeps`` holds their digests. Here a part of each is run again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweeps.digest import processor

from vlarig.harness import evaluate
from vlarig.results.statistics import wilson_interval

SWEEPS = Path(__file__).parent / "sweeps"


@dataclass(frozen=True)
class Sweep:
    """A full sweep, and the part of it that is run again.

    Attributes:
        name: Name of its file of digests.
        suite: Its suite.
        policy: Its policy.
        tasks: How many tasks it has.
        least: Least share of successes in every task.
        most: Greatest share of successes in every task.
        again: Initial states of each task to run again.
        episodes: Episodes of each task in the full sweep.
        some: Tasks to run again; all when empty.
    """

    name: str
    suite: str
    policy: str
    tasks: int
    least: float
    most: float
    again: int = 1
    episodes: int = 50
    some: tuple[str, ...] = ()


FULL = [
    Sweep("tabletop_expert", "tabletop", "expert", 5, 0.95, 1.0, again=4),
    Sweep("tabletop_random", "tabletop", "random", 5, 0.0, 0.0),
    Sweep("tabletop_zero", "tabletop", "zero", 5, 0.0, 0.0),
    Sweep("tabletop_shuffled", "tabletop", "confused_experts:ShuffledExpert", 5, 0.0, 0.4),
    Sweep("tabletop_permuted", "tabletop", "confused_experts:PermutedExpert", 5, 0.0, 0.4),
    Sweep(
        "libero_expert",
        "libero_object",
        "expert",
        10,
        0.9,
        1.0,
        again=2,
        some=("pick_up_the_cream_cheese_and_place_it_in_the_basket", "pick_up_the_ketchup_and_place_it_in_the_basket"),
    ),
    Sweep(
        "libero_expert",
        "libero_spatial",
        "expert",
        10,
        0.8,
        1.0,
        again=2,
        some=(
            "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
            "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate",
        ),
    ),
    Sweep("simpler_expert", "simpler_widowx", "expert", 4, 0.95, 1.0, episodes=96),
    Sweep("simpler_expert", "simpler_ood", "expert", 6, 0.9, 1.0, episodes=48),
]

each_sweep = pytest.mark.parametrize("sweep", FULL, ids=lambda sweep: f"{sweep.name}-{sweep.suite}")


def load(name: str) -> dict:
    return json.loads((SWEEPS / f"{name}.json").read_text())


@each_sweep
def test_the_full_sweeps_hold_what_the_suite_promises(sweep: Sweep) -> None:
    tasks: dict[str, Counter[bool]] = defaultdict(Counter)
    for key, (success, _, _) in load(sweep.name)["episodes"].items():
        suite, _, task, *_ = key.split("/")
        if suite == sweep.suite:
            tasks[task][success] += 1
    assert len(tasks) == sweep.tasks
    for task, counts in tasks.items():
        assert counts.total() == sweep.episodes
        rate = counts[True] / sweep.episodes
        interval = wilson_interval(counts[True], sweep.episodes)
        print(f"{sweep.policy} {task}: {counts[True]}/{sweep.episodes}, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}")
        assert sweep.least <= rate <= sweep.most, f"{sweep.policy} in {task}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_sweep
def test_a_part_of_the_full_sweep_comes_out_again(request: pytest.FixtureRequest, tmp_path: Path, sweep: Sweep) -> None:
    request.getfixturevalue(sweep.suite.partition("_")[0])
    full = load(sweep.name)
    evaluation = evaluate(sweep.suite, sweep.policy, episodes=sweep.again, tasks=sweep.some, run=tmp_path / "run")
    assert evaluation.complete
    records = evaluation.records()
    assert len(records) == (len(sweep.some) or sweep.tasks) * sweep.again
    same_processor = full["processor"] == processor()
    for record in records:
        success, steps, digest = full["episodes"][record.key]
        assert record.success == success, record.key
        if same_processor:  # on other machines the last bits may differ, and contacts amplify them
            assert (record.steps, record.state_digest[:16]) == (steps, digest), record.key
