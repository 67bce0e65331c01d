"""SimplerEnv beside mani-skill's own loop: CPU of a whole episode, of a reset and of a picture, start-up, and the memory of a slot.

Baseline, in the same run: the loop of SimplerEnv's evaluator on mani-skill 3 (``gym.make`` once, a picture of 640 x 480 at every step,
its plain reset), over the same episode with the same actions; the script says whether both reach the same state, to the last bit, when
upstream's env begins anew too. All times of episodes are CPU times of one thread, so that neighbours on the machine disturb less.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from asking import ask, spread
from rich.console import Console
from rich.table import Table
from simpler_loops import CHUNK

from vlarig.benchmarks.registry import load_suite
from vlarig.harness.workplace import Workplace

SCRIPT = "simpler_loops.py"
#: A task on the table and the one in the sink, with the rows that mani-skill gives them.
TASKS = {"put_carrot_on_plate": 60, "put_eggplant_in_basket": 120}
TURNS = 5
SAME_SCENE = (1, 2, 8)
PROJECTED = 128
COSTS = {
    "our episode": f"our episode with its reset, a picture in {CHUNK} rows",
    "upstream's episode": "upstream's, a picture a row",
    "ours, protocol": "our episode under the default protocol, a picture a row, resized",
    "ours, blind": "our episode without pictures",
    "our reset": "our reset with its picture",
    "upstream's reset": "upstream's reset with its picture",
    "picture": "our picture",
    "substeps": "PhysX's 100 steps of a row, bare",
}
RATIOS = {
    f"an episode with its reset, {CHUNK} rows a chunk": ("our episode", "upstream's episode"),
    "an episode of the default protocol": ("ours, protocol", "upstream's episode"),
    "an episode of ours without pictures": ("ours, blind", "upstream's episode"),
    "a reset": ("our reset", "upstream's reset"),
}


def show_speed(console: Console, workplace: Workplace, task: str, rows: int) -> None:
    """Measure one task in turns and print medians."""
    suite = workplace.suite
    (episode,) = suite.episodes([task], per_task=1, protocol=suite.protocol("maniskill3"))  # upstream's own start
    episode = replace(episode, protocol=suite.protocol())
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (rows, 7)) * [0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.0]
    actions[: rows // 4, 2] -= 0.01  # down to the table, where the contacts are
    actions[:, 6] = np.arange(rows) // 8 % 2
    answer = ask(workplace, SCRIPT, episode, actions=actions.tolist(), turns=TURNS)
    costs: dict[str, list[float]] = answer["costs"]
    table = Table(f"{task}, {rows} rows", "CPU ms", "min to max")
    for name, title in COSTS.items():
        table.add_row(title, *spread(costs[name], 1))
    console.print(table)
    ratios = Table("upstream / ours, turn by turn", "median", "min to max")
    for title, (ours, theirs) in RATIOS.items():
        ratios.add_row(title, *spread([their / our for our, their in zip(costs[ours], costs[theirs], strict=True)], 1))
    console.print(ratios)
    console.print(f"the same state to the last bit after the episode: {'yes' if answer['same_state'] else 'no'}; {TURNS} turns")


def show_start(console: Console, workplace: Workplace) -> None:
    """Measure how long it takes until the first observation, once for each task."""
    table = Table("wall seconds", "importing mani-skill", "the first scene with its picture", "the scene again")
    for episode in workplace.suite.episodes(per_task=1):
        seconds = ask(workplace, SCRIPT, episode)
        table.add_row(episode.task, *(f"{seconds[name]:.1f}" for name in ("import", "first", "again")))
    console.print(table)


def show_memory(console: Console, workplace: Workplace) -> None:
    """Measure the memory of slots, of all scenes together and of upstream's env, and project to 128 slots."""
    episodes = workplace.suite.episodes(per_task=1)
    table = Table("one process, after a chunk and pictures", *(episode.task for episode in episodes))
    held = {
        slots: [ask(workplace, SCRIPT, episode, payloads=[episode.payload] * slots) for episode in episodes]
        for slots in SAME_SCENE
    }
    for slots, megabytes in held.items():
        table.add_row(f"{slots} slots of one task, MB (PSS)", *(f"{each:.0f}" for each in megabytes))
    most = max(SAME_SCENE)
    further = [(many - one) / (most - 1) for many, one in zip(held[most], held[1], strict=True)]
    table.add_row("a further slot of the task", *(f"{each:.1f}" for each in further))
    upstream = [ask(workplace, SCRIPT, episode, upstream=True) for episode in episodes]
    table.add_row("upstream's env, one a process", *(f"{each:.0f}" for each in upstream))
    together = ask(workplace, SCRIPT, episodes[0], payloads=[episode.payload for episode in episodes])
    console.print(table)
    console.print(f"four slots, a task each: {together:.0f} MB")
    for workers in (2, 16):
        total = workers * together + (PROJECTED - 4 * workers) * max(further)
        console.print(
            f"projected, {PROJECTED} slots over all tasks on {workers} workers: {max(total, workers * together):.0f} MB"
        )
    console.print(f"projected, {PROJECTED} of upstream's: {PROJECTED * np.mean(upstream):.0f} MB")


def main() -> None:
    """Measure everything."""
    console = Console(width=130)
    workplace = Workplace.of(load_suite("simpler_widowx"))
    for task, rows in TASKS.items():
        show_speed(console, workplace, task, rows)
    show_start(console, workplace)
    show_memory(console, workplace)


if __name__ == "__main__":
    main()
