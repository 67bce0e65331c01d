"""Many slots for a long time: memory, rate and the driver's share, minute by minute, of rollouts with pictures.

Aim for the embedded suite: 128 slots within 16 GB, steady over an hour. Baseline, in the same run: one slot a worker, which is what
most evaluators run. Memory is the proportional set size of every process, so that what workers share counts once. Beside rows a second
by the clock stand rows a second of CPU time, which say more on a machine with other work on it.

    python benchmarks/speed/many_slots.py tabletop --slots 128 --minutes 60 --out many_slots.csv
"""

from __future__ import annotations

import contextlib
import csv
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import psutil
import tyro
from measured_sweep import InstantPolicy
from rich.console import Console
from rich.table import Table

from vlarig.harness.engine import Transition
from vlarig.harness.machines.fleets import LocalFleet
from vlarig.harness.rollouts import Rollouts
from vlarig.results.records import Attempt

MEGABYTE = 2**20


@dataclass(frozen=True)
class Question:
    """How many slots for how long."""

    suite: tyro.conf.Positional[str] = "tabletop"
    """Name of the suite."""
    protocol: str | None = None
    """Name of one of its protocols; its default when left out."""
    slots: int = 128
    """Slots of all workers together."""
    workers: int = 2
    """Simulator processes."""
    minutes: float = 60.0
    """How long to measure, after every slot has begun."""
    baseline_minutes: float = 1.0
    """How long to measure one slot a worker before that."""
    every: float = 60.0
    """Seconds between two measurements."""
    out: Path | None = None
    """CSV file to write the measurements to, a line each as it is taken."""


#: What is measured at the end of each interval, by its name in the CSV file; slots, minutes since every slot had begun and failed
#: attempts so far are there as well.
HEADINGS = {
    "rows": "rows/s",
    "rows_of_cpu": "rows/CPU s",
    "episodes": "episodes/min",
    "driver_ms": "driver ms/chunk",
    "memory": "memory MB",
    "driver": "driver",
    "workers": "workers",
}

Sample = dict[str, float]


class Counter:
    """A sink that counts; ``now`` gives the counts with the seconds of the wall, of the driver's CPU and of all processes' CPU."""

    def __init__(self) -> None:
        self.rows = self.chunks = self.episodes = self.faults = 0

    def now(self) -> Sample:
        """Counts and clocks at this moment."""
        driver = psutil.Process()
        cpu = {process.pid: sum(process.cpu_times()[:2]) for process in [driver, *driver.children(recursive=True)]}
        return {**vars(self), "wall": time.monotonic(), "driver_cpu": cpu[driver.pid], "cpu": sum(cpu.values())}

    async def emit(self, transition: Transition) -> None:
        """Count a chunk."""
        self.chunks += 1
        self.rows += len(transition.result.rows)
        self.episodes += transition.result.over

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        self.faults += 1


def nothing(transition: Transition) -> None:
    """Keep no transition."""


def measure(question: Question, slots_a_worker: int, minutes: float, write: Callable[[Sample], object] | None) -> list[Sample]:
    """Run that many slots in each worker and measure every so often."""
    counter, samples = Counter(), []
    slots = slots_a_worker * question.workers
    with (
        TemporaryDirectory() as logs,
        Rollouts(
            {question.suite: slots},
            InstantPolicy(),
            protocols={question.suite: question.protocol} if question.protocol else None,
            fleet=LocalFleet(question.workers),
            sinks=[counter],
            logs=Path(logs),
        ) as rollouts,
    ):
        rollouts.collect(1, nothing)
        began = before = counter.now()
        while before["wall"] < began["wall"] + 60 * minutes:
            rollouts.collect(1, nothing)
            if time.monotonic() < before["wall"] + question.every:
                continue
            now = counter.now()
            samples.append({"slots": slots, "minute": (now["wall"] - began["wall"]) / 60, **_sample(before, now)})
            if write is not None:
                write({name: round(value, 3) for name, value in samples[-1].items()})
            before = now
    return samples


def _sample(before: Sample, now: Sample) -> Sample:
    gc.collect()
    driver = psutil.Process()
    passed = {name: now[name] - before[name] for name in now}
    memory, workers = _megabytes([driver]), _megabytes(driver.children(recursive=True))
    return {
        "rows": passed["rows"] / passed["wall"],
        "rows_of_cpu": passed["rows"] / max(passed["cpu"], 1e-9),
        "episodes": passed["episodes"] / passed["wall"] * 60,
        "driver_ms": passed["driver_cpu"] / max(passed["chunks"], 1) * 1e3,
        "memory": memory + workers,
        "driver": memory,
        "workers": workers,
        "faults": now["faults"],
    }


def _megabytes(processes: list[psutil.Process]) -> float:
    return sum(process.memory_full_info().pss for process in processes) / MEGABYTE


def _table(samples: list[Sample]) -> Table:
    """The baseline, then the tenths of the run."""
    table = Table("slots", "minute", *HEADINGS.values())
    step = max(1, len(samples) // 10)
    for sample in samples[step - 1 :: step]:
        digits = {"driver_ms": 2}
        table.add_row(*(f"{sample[name]:.{digits.get(name, 0)}f}" for name in ("slots", "minute", *HEADINGS)))
    return table


def main() -> None:
    """Measure the baseline, then the slots; print a line for each tenth of the time."""
    question = tyro.cli(Question, description=__doc__)
    console = Console(width=130)
    with contextlib.ExitStack() as stack:
        write = None
        if question.out is not None:
            file = stack.enter_context(question.out.open("w", newline="", buffering=1))
            writer = csv.DictWriter(file, ["slots", "minute", *HEADINGS, "faults"])
            writer.writeheader()
            write = writer.writerow
        baseline = measure(question, 1, question.baseline_minutes, write)
        samples = measure(question, question.slots // question.workers, question.minutes, write)
    console.print(_table([*baseline[-1:], *samples]))
    half = len(samples) // 2
    halves = samples[:half] or samples, samples[half:]
    first, last = ({name: fmean(each[name] for each in part) for name in HEADINGS} for part in halves)
    growth = (last["memory"] - first["memory"]) / max(question.minutes / 2, 1e-9) * 60
    console.print(
        f"most memory {max(each['memory'] for each in samples):.0f} MB; second half against first: memory {growth:+.0f} MB an hour, "
        f"rows a CPU second {last['rows_of_cpu'] / first['rows_of_cpu']:.3f}; {samples[-1]['faults']} failed attempts"
    )
    one = baseline[-1]["memory"] / question.workers
    console.print(f"one slot a worker: {one:.0f} MB each; {question.slots} of them, projected: {one * question.slots:.0f} MB")


if __name__ == "__main__":
    main()
