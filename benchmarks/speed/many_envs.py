"""Many envs for a long time: memory, rate and the driver's share, minute by minute, of rollouts with pictures.

Aim for the embedded suite: 128 envs within 16 GB, steady over an hour. Baseline, in the same run: one env a worker, which is what
most evaluators run. Memory is the proportional set size of every process, so that what workers share counts once. Beside steps a second
by the clock are steps a second of CPU time, which mean more on a machine with other work on it.

    python benchmarks/speed/many_envs.py tabletop --num-envs 128 --minutes 60 --out many_envs.csv
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
class Settings:
    """How many envs for how long."""

    suite: tyro.conf.Positional[str] = "tabletop"
    """Name of the suite."""
    protocol: str | None = None
    """Name of one of its protocols; its default when left out."""
    envs: int = 128
    """Envs of all workers together."""
    workers: int = 2
    """Simulator processes."""
    minutes: float = 60.0
    """How long to measure, after every env has begun."""
    baseline_minutes: float = 1.0
    """How long to measure one env a worker before that."""
    every: float = 60.0
    """Seconds between two measurements."""
    out: Path | None = None
    """CSV file to write the measurements to, a line each as it is taken."""


#: What is measured at the end of each interval, by its name in the CSV file; envs, minutes since every env had begun and failed
#: attempts so far are there as well.
HEADINGS = {
    "steps": "steps/s",
    "steps_of_cpu": "steps/CPU s",
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
        self.steps = self.chunks = self.episodes = self.faults = 0

    def now(self) -> Sample:
        """Counts and clocks at this moment."""
        driver = psutil.Process()
        cpu = {process.pid: sum(process.cpu_times()[:2]) for process in [driver, *driver.children(recursive=True)]}
        return {**vars(self), "wall": time.monotonic(), "driver_cpu": cpu[driver.pid], "cpu": sum(cpu.values())}

    async def emit(self, transition: Transition) -> None:
        """Count a chunk."""
        self.chunks += 1
        self.steps += len(transition.result.steps)
        self.episodes += transition.result.over

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        self.faults += 1


def nothing(transition: Transition) -> None:
    """Keep no transition."""


def measure(settings: Settings, envs_a_worker: int, minutes: float, write: Callable[[Sample], object] | None) -> list[Sample]:
    """Run that many envs in each worker and measure every so often."""
    counter, samples = Counter(), []
    envs = envs_a_worker * settings.workers
    with (
        TemporaryDirectory() as logs,
        Rollouts(
            {settings.suite: envs},
            InstantPolicy(),
            protocols={settings.suite: settings.protocol} if settings.protocol else None,
            fleet=LocalFleet(settings.workers),
            sinks=[counter],
            logs=Path(logs),
        ) as rollouts,
    ):
        rollouts.collect(1, nothing)
        began = before = counter.now()
        while before["wall"] < began["wall"] + 60 * minutes:
            rollouts.collect(1, nothing)
            if time.monotonic() < before["wall"] + settings.every:
                continue
            now = counter.now()
            samples.append({"envs": envs, "minute": (now["wall"] - began["wall"]) / 60, **_sample(before, now)})
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
        "steps": passed["steps"] / passed["wall"],
        "steps_of_cpu": passed["steps"] / max(passed["cpu"], 1e-9),
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
    table = Table("envs", "minute", *HEADINGS.values())
    step = max(1, len(samples) // 10)
    for sample in samples[step - 1 :: step]:
        digits = {"driver_ms": 2}
        table.add_row(*(f"{sample[name]:.{digits.get(name, 0)}f}" for name in ("envs", "minute", *HEADINGS)))
    return table


def main() -> None:
    """Measure the baseline, then the envs; print a line for each tenth of the time."""
    settings = tyro.cli(Settings, description=__doc__)
    console = Console(width=130)
    with contextlib.ExitStack() as stack:
        write = None
        if settings.out is not None:
            file = stack.enter_context(settings.out.open("w", newline="", buffering=1))
            writer = csv.DictWriter(file, ["envs", "minute", *HEADINGS, "faults"])
            writer.writeheader()
            write = writer.writerow
        baseline = measure(settings, 1, settings.baseline_minutes, write)
        samples = measure(settings, settings.num_envs // settings.workers, settings.minutes, write)
    console.print(_table([*baseline[-1:], *samples]))
    half = len(samples) // 2
    halves = samples[:half] or samples, samples[half:]
    first, last = ({name: fmean(each[name] for each in part) for name in HEADINGS} for part in halves)
    growth = (last["memory"] - first["memory"]) / max(settings.minutes / 2, 1e-9) * 60
    console.print(
        f"most memory {max(each['memory'] for each in samples):.0f} MB; second half against first: memory {growth:+.0f} MB an hour, "
        f"steps a CPU second {last['steps_of_cpu'] / first['steps_of_cpu']:.3f}; {samples[-1]['faults']} failed attempts"
    )
    one = baseline[-1]["memory"] / settings.workers
    console.print(
        f"one env a worker: {one:.0f} MB each; {settings.num_envs} of them, projected: {one * settings.num_envs:.0f} MB"
    )


if __name__ == "__main__":
    main()
