"""The harness against a bare loop: steps per second of as many simulator processes, in the same runtime, at 16 rows a chunk.

Aim: 0.97 or more. Both play the same episodes of the embedded suite with the same actions, images where a policy would see them, resets
included, workers loaded beforehand.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from measured_sweep import InstantPolicy, measure
from rich.console import Console
from rich.table import Table

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Episode
from vlarig.envs.messages import Start, encode
from vlarig.harness.workplace import Workplace

REPEATS = 3
WORKERS = 2
SLOTS = 2
EPISODES_A_TASK = 30


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
    began = time.perf_counter()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    rows = sum(int(process.stdout.readline()) for process in processes)
    wall = time.perf_counter() - began
    for process in processes:
        process.wait()
    return rows / wall


def main() -> None:
    """Measure in turns and print medians."""
    suite = load_suite("tabletop")
    workplace = Workplace.of(suite)
    episodes = suite.episodes(per_task=EPISODES_A_TASK)
    policy = InstantPolicy()
    loops, sweeps = [], []
    for _ in range(REPEATS):
        loops.append(bare(workplace, episodes, policy.actions))
        cost = asyncio.run(measure(suite, policy, episodes, WORKERS, SLOTS))
        sweeps.append(cost.rows / cost.wall)
    ratios = [sweep / loop for sweep, loop in zip(sweeps, loops, strict=True)]
    table = Table("", "steps/s, median", "min to max")
    for name, rates in ((f"bare loop, {WORKERS} processes", loops), (f"harness, {WORKERS} workers x {SLOTS} slots", sweeps)):
        table.add_row(name, f"{statistics.median(rates):.1f}", f"{min(rates):.1f} to {max(rates):.1f}")
    console = Console()
    console.print(table)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    console.print(f"harness / bare, turn by turn: median {statistics.median(ratios):.3f} ({spread}), {REPEATS} turns")


if __name__ == "__main__":
    main()
