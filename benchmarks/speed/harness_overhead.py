"""The harness against a bare loop: steps per second of as many simulator processes, in the same runtime, at 16 rows a chunk.

Aim: 0.97 or more. Both play the same episodes of the embedded suite with the same actions, images where a policy would see them, resets
included, workers loaded beforehand. The rate is that of the time in which every slot has an episode; at the end of a sweep workers run
dry one after the other, which costs about an episode's time however long the sweep is, and is shown beside it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
from pathlib import Path

import numpy as np
from measured_sweep import InstantPolicy, measure
from rich.console import Console
from rich.table import Table

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Episode
from vlarig.envs.messages import Start, encode
from vlarig.harness.workplace import Workplace

REPEATS = 5
WORKERS = 2
SLOTS = 2
EPISODES_A_TASK = 12
ROWS = 16


def bare(workplace: Workplace, episodes: list[Episode], actions: np.ndarray) -> float:
    """Steps per second of :data:`WORKERS` bare loops, each with its share of the episodes."""
    processes = []
    for number in range(WORKERS):
        process = subprocess.Popen(
            [str(workplace.runtime.python), "-I", str(Path(__file__).with_name("bare_loop.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=workplace.environment(),
        )
        starts = [Start(0, 0, episode, InstantPolicy.needs) for episode in episodes[number::WORKERS]]
        told = {
            "packages": workplace.packages(),
            "adapter": workplace.suite.adapter,
            "episodes": [base64.b64encode(encode(start)).decode() for start in starts],
            "actions": actions.tolist(),
        }
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    rate = sum(float(process.stdout.readline()) for process in processes)
    for process in processes:
        process.wait()
    return rate


def main() -> None:
    """Measure in turns and print medians."""
    suite = load_suite("tabletop")
    workplace = Workplace.of(suite)
    episodes = suite.episodes(per_task=EPISODES_A_TASK)
    policy = InstantPolicy()
    loops, sweeps, whole, driver = [], [], [], []
    for _ in range(REPEATS):
        loops.append(bare(workplace, episodes, policy.actions))
        cost = asyncio.run(measure(suite, policy, episodes, WORKERS, SLOTS))
        sweeps.append(cost.steady_rate)
        whole.append(cost.rows / cost.wall)
        driver.append(cost.cpu / cost.chunks * 1e3)
    table = Table("", "steps/s, median", "min to max")
    named = {
        f"bare loop, {WORKERS} processes": loops,
        f"harness, {WORKERS} workers x {SLOTS} slots": sweeps,
        "the same, with the end in which slots run dry": whole,
    }
    for name, rates in named.items():
        table.add_row(name, f"{statistics.median(rates):.1f}", f"{min(rates):.1f} to {max(rates):.1f}")
    console = Console()
    console.print(table)
    for name, rates in (("harness / bare", sweeps), ("with the end", whole)):
        ratios = [rate / loop for rate, loop in zip(rates, loops, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        console.print(f"{name}, turn by turn: median {statistics.median(ratios):.3f} ({spread}), {REPEATS} turns")
    console.print(f"CPU of the driver: {statistics.median(driver):.2f} ms a chunk, of {ROWS} rows")


if __name__ == "__main__":
    main()
