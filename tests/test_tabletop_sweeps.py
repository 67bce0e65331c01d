"""The embedded suite can be solved, by those who read: experts succeed, and nobody else does.

The full sweeps, of all 250 starts, are run by hand; ``tests/sweeps`` holds their digests. Here a part of each is run again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from sweeps.digest import processor

from vlarig.harness import evaluate
from vlarig.results.records import EpisodeRecord
from vlarig.results.statistics import wilson_interval

SWEEPS = Path(__file__).parent / "sweeps"
#: Policy to the file of its full sweep, and the bounds on its success in every task.
FULL = {
    "expert": (0.95, 1.0),
    "random": (0.0, 0.0),
    "zero": (0.0, 0.0),
    "shuffled": (0.0, 0.4),
    "permuted": (0.0, 0.4),
}


def load(name: str) -> dict:
    return json.loads((SWEEPS / f"tabletop_{name}.json").read_text())


@pytest.mark.parametrize("name", FULL)
def test_the_full_sweeps_hold_what_the_suite_promises(name: str) -> None:
    low, high = FULL[name]
    tasks: dict[str, Counter[bool]] = defaultdict(Counter)
    for key, (success, _, _) in load(name)["episodes"].items():
        tasks[key.split("/")[2]][success] += 1
    assert len(tasks) == 5
    for task, counts in tasks.items():
        assert counts.total() == 50
        rate = counts[True] / 50
        interval = wilson_interval(counts[True], 50)
        print(f"{name} {task}: {counts[True]}/50, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}")
        assert low <= rate <= high, f"{name} in {task}"


def sweep(policy: str, episodes: int, tmp_path: Path) -> list[EpisodeRecord]:
    evaluation = evaluate("tabletop", policy, episodes=episodes, run=tmp_path / "run")
    assert evaluation.complete
    return evaluation.records()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "policy", "episodes"),
    [
        ("expert", "expert", 4),
        ("shuffled", "confused_experts:ShuffledExpert", 1),
        ("permuted", "confused_experts:PermutedExpert", 1),
        ("random", "random", 1),
        ("zero", "zero", 1),
    ],
)
def test_a_part_of_the_full_sweep_comes_out_again(
    tabletop: object, tmp_path: Path, name: str, policy: str, episodes: int
) -> None:
    full = load(name)
    records = sweep(policy, episodes, tmp_path)
    assert len(records) == 5 * episodes
    same_processor = full["processor"] == processor()
    for record in records:
        success, steps, digest = full["episodes"][record.key]
        assert (record.success, record.steps) == (success, steps), record.key
        if same_processor:
            assert record.state_digest[:16] == digest, record.key
