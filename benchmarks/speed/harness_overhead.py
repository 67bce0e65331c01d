"""The harness against a bare loop: steps per second of as many simulator processes, in the same runtime, at 16 steps a chunk.

Aim: 0.97 or more. Both play the same episodes of the embedded suite with the same actions, images where a policy would see them,
resets included, workers loaded beforehand. One bare loop has one env, the other as many as a worker, which run a chunk in turn: a
second env takes part of the processor's caches from the first. The harness's rate is that of the time in which every env has an
episode; at the end of a sweep workers run dry one after the other, which costs about an episode's time however long the sweep is, and
is shown beside it.
"""

from __future__ import annotations

from measured_sweep import InstantPolicy, measure
from rich.console import Console
from rich.table import Table
from spread import spread
from steps import bare_rate

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.messages import Start
from vlarig.harness.worker_spec import WorkerSpec

REPEATS = 5
WORKERS = 2
ENVS = 2
EPISODES_A_TASK = 12


def main() -> None:
    suite = load_suite("tabletop")
    worker_spec, episodes = WorkerSpec.of(suite), suite.episodes(per_task=EPISODES_A_TASK)
    starts, actions = [Start(episode, InstantPolicy.needs) for episode in episodes], InstantPolicy().actions
    alone, together, costs = [], [], []
    for _ in range(REPEATS):
        alone.append(bare_rate(worker_spec, starts, WORKERS, 1, actions))
        costs.append(measure(suite.name, EPISODES_A_TASK, WORKERS, ENVS))
        together.append(bare_rate(worker_spec, starts, WORKERS, ENVS, actions))
    table = Table("", "steps/s, median", "min to max", "/ bare, 1 env", "min to max", f"/ bare, {ENVS} envs", "min to max")
    for name, rates in {
        f"bare loop, {WORKERS} processes x 1 env": alone,
        f"bare loop, {WORKERS} processes x {ENVS} envs in turn": together,
        f"harness, {WORKERS} workers x {ENVS} envs": [cost.steps for cost in costs],
        "the same, with the end in which envs run dry": [cost.steps_to_the_end for cost in costs],
    }.items():
        shares = ([rate / loop for rate, loop in zip(rates, loops, strict=True)] for loops in (alone, together))
        table.add_row(name, *spread(rates, 1), *(word for share in shares for word in spread(share, 3)))
    console = Console(width=150)
    console.print(table)
    cpu, extent = spread([cost.cpu for cost in costs], 2)
    console.print(f"CPU of the driver: {cpu} ms a chunk ({extent}), of 16 steps; {REPEATS} turns")


if __name__ == "__main__":
    main()
