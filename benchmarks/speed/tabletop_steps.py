"""Steps per second of one core in the embedded suite, beside robosuite's own loop: same robot, objects, controllers, 20 Hz.

Baseline, in the same run: our scene class with robosuite's own methods put back, so that both loops simulate the same bodies under
the same torques; the script says whether they reach the same state, to the last bit. It has robosuite's observables of the robot, its
visual meshes and its controllers' code. It has no observables of objects and no reward, which robosuite's own tasks have, and its
pictures leave out objects and trays, which have no visual meshes: all of that favours the baseline. robosuite's way to pictures is to
draw them after every step. Its ``Stack`` with two cubes, as it is shipped but for the cameras, stands beside it.

All times are CPU times of one thread, so that neighbours on the machine disturb less; resets are not in the loops' times.
"""

from __future__ import annotations

import numpy as np
from asking import ask, spread
from rich.console import Console
from rich.table import Table
from tabletop_loops import ROWS

from vlarig.benchmarks.registry import load_suite
from vlarig.harness.workplace import Workplace

SCRIPT = "tabletop_loops.py"
TURNS = 5
SLOTS = (1, 2, 8)
LOOPS = {
    "ours": ("a: ours", "none"),
    "ours, chunk": ("b: ours", "2 in 16 rows"),
    "ours, row": ("c: ours", "2 a row"),
    "robosuite": ("d: robosuite", "none"),
    "robosuite, row": ("e: robosuite", "2 a row"),
    "stack": ("its Stack", "none"),
}
RATIOS = {"a/d": ("ours", "robosuite"), "b/e": ("ours, chunk", "robosuite, row"), "c/e": ("ours, row", "robosuite, row")}
PARTS = {
    "reset": "our reset",
    "ego": "our ego view",
    "wrist": "our wrist view",
    "robosuite ego": "robosuite's ego view",
    "robosuite wrist": "robosuite's wrist view",
}


def main() -> None:
    """Measure in turns and print medians."""
    workplace = Workplace.of(load_suite("tabletop"))
    episode = workplace.suite.episodes(per_task=1)[0]
    actions = np.random.default_rng(0).normal(0.0, 0.3, (ROWS, 7)).astype(np.float32)
    answer = ask(workplace, SCRIPT, episode, actions=actions.tolist(), turns=TURNS)
    costs: dict[str, list[float]] = answer["costs"]
    loops = Table("loop", "views", "steps/s", "min to max", "ms a row", "min to max")
    for name, titles in LOOPS.items():
        loops.add_row(*titles, *spread([1e3 / cost for cost in costs[name]], 1), *spread(costs[name], 2))
    ratios = Table("ratio of steps/s, turn by turn", "median", "min to max")
    for title, (ours, theirs) in RATIOS.items():
        turns = [their / our for our, their in zip(costs[ours], costs[theirs], strict=True)]
        ratios.add_row(title, *spread(turns, 2))
    parts = Table("part", "CPU ms", "min to max")
    for name, title in PARTS.items():
        parts.add_row(title, *spread(costs[name], 2))
    memory = Table("slots in one process, with a renderer", "MB resident")
    for slots in SLOTS:
        memory.add_row(str(slots), f"{ask(workplace, SCRIPT, episode, slots=slots):.0f}")
    console = Console()
    for table in (loops, ratios, parts, memory):
        console.print(table)
    console.print(f"a and d reach the same state to the last bit: {'yes' if answer['same_state'] else 'no'}; {TURNS} turns")


if __name__ == "__main__":
    main()
