"""LIBERO beside upstream's own loop: CPU of a row, of a whole episode and of a reset, and the memory of a slot.

Baseline, in the same run: the loop of the public evaluators (``OffScreenRenderEnv``, two views of 256 x 256 at every step, the task
loaded anew at every reset), over the same episode with the same actions; the script says whether both reach the same state, to the
last bit. All times are CPU times of one thread, so that neighbours on the machine disturb less.
"""

from __future__ import annotations

import sys

import numpy as np
from asking import ask, spread
from libero_loops import CHUNK
from rich.console import Console
from rich.table import Table

from vlarig.benchmarks.registry import load_suite
from vlarig.harness.workplace import Workplace

SCRIPT = "libero_loops.py"
SUITES = ("libero_spatial", "libero_object")
TURNS = 3
ROWS = 8 * CHUNK
SAME_TASK = (1, 2, 8)
PROJECTED = 128
COSTS = {
    "ours, chunk": f"ours, a row, two views in {CHUNK} rows",
    "ours, protocol": "ours, a row, the StarVLA protocol (two views in 8 rows, resized)",
    "ours, row": "ours, a row, two views a row",
    "upstream, row": "upstream, a row, two views a row",
    "our episode": f"our episode of {ROWS} rows, {CHUNK} rows a chunk, with its reset",
    "upstream's episode": "upstream's, the same episode",
    "our reset": "our reset, with ten steps of waiting and two views",
    "upstream's reset": "upstream's reset, with the same",
    "ours, blind": "ours, a row without cameras",
    "upstream, blind": "upstream, a row without cameras",
    "substeps": "MuJoCo's 25 physics steps of a row, bare",
    "ego": "our ego view",
    "wrist": "our wrist view",
}
RATIOS = {
    f"a row at {CHUNK} rows a chunk": ("ours, chunk", "upstream, row"),
    "a row of the StarVLA protocol": ("ours, protocol", "upstream, row"),
    "an episode with its reset": ("our episode", "upstream's episode"),
    "a reset": ("our reset", "upstream's reset"),
    "a row without cameras": ("ours, blind", "upstream, blind"),
    "a row, both with two views a row": ("ours, row", "upstream, row"),
}


def show_speed(console: Console, workplace: Workplace) -> None:
    """Measure one suite's first task in turns and print medians."""
    episode = workplace.suite.episodes(per_task=1)[0]
    actions = np.clip(np.random.default_rng(0).normal(0.0, 0.3, (ROWS, 7)), -1.0, 1.0).astype(np.float32)
    answer = ask(workplace, SCRIPT, episode, actions=actions.tolist(), turns=TURNS)
    costs: dict[str, list[float]] = answer["costs"]
    table = Table(episode.suite, "CPU ms", "min to max")
    for name, title in COSTS.items():
        table.add_row(title, *spread(costs[name], 2))
    console.print(table)
    ratios = Table("upstream / ours, turn by turn", "median", "min to max")
    for title, (ours, theirs) in RATIOS.items():
        ratios.add_row(title, *spread([their / our for our, their in zip(costs[ours], costs[theirs], strict=True)], 1))
    console.print(ratios)
    console.print(f"the same state to the last bit after the episode: {'yes' if answer['same_state'] else 'no'}; {TURNS} turns")


def show_memory(console: Console, workplace: Workplace) -> None:
    """Measure the memory of slots, of a second task and of upstream's env, and project to 128 slots."""
    suite = workplace.suite
    episode = suite.episodes(per_task=1)[0]
    first, second = suite.tasks[0].name, suite.tasks[1].name
    table = Table(f"{suite.name}: one process, after a chunk and pictures", "MB (PSS)")
    held = {slots: ask(workplace, SCRIPT, episode, tasks=[first] * slots) for slots in SAME_TASK}
    for slots, megabytes in held.items():
        table.add_row(f"{slots} slots of one task", f"{megabytes:.0f}")
    two_tasks = ask(workplace, SCRIPT, episode, tasks=[first, second])
    table.add_row("2 slots, two tasks", f"{two_tasks:.0f}")
    upstream = ask(workplace, SCRIPT, episode, upstream=True)
    table.add_row("upstream's env, one a process", f"{upstream:.0f}")
    most = max(SAME_TASK)
    slot, scene = (held[most] - held[1]) / (most - 1), two_tasks - held[2]
    table.add_row("a further slot of the task", f"{slot:.1f}")
    table.add_row("a further task", f"{scene:.0f}")
    for workers in (2, 16):
        total = workers * (held[1] + scene) + (PROJECTED - workers) * slot
        table.add_row(f"projected: {PROJECTED} slots, {workers} workers with two tasks each", f"{total:.0f}")
    table.add_row(f"projected: {PROJECTED} of upstream's", f"{PROJECTED * upstream:.0f}")
    console.print(table)


def main() -> None:
    """Measure both suites, or those named on the command line."""
    console = Console(width=130)
    for name in sys.argv[1:] or SUITES:
        workplace = Workplace.of(load_suite(name))
        show_speed(console, workplace)
        show_memory(console, workplace)


if __name__ == "__main__":
    main()
