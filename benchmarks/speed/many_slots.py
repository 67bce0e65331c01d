"""Many slots for a long time: memory, rate and the driver's share, minute by minute, of rollouts with pictures.

Aim for the embedded suite: 128 slots within 16 GB, steady over an hour. Baseline, in the same run: one slot a worker, which is what
most evaluators run. Memory is the proportional set size of every process, so that what workers share counts once. Beside rows a second
by the clock stand rows a second of CPU time, which say more on a machine with other work on it.

    python benchmarks/speed/many_slots.py tabletop --slots 128 --minutes 60 --out many_slots.csv
"""

from __future__ import annotations

import csv
import gc
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import tyro
from measured_sweep import InstantPolicy
from rich.console import Console
from rich.table import Table

from vlarig.harness.engine import Transition
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


@dataclass(frozen=True)
class Sample:
    """What was measured at the end of one interval.

    Attributes:
        slots: Slots under way.
        minute: Minutes since every slot had begun.
        rows: Rows executed a second, by the clock.
        rows_of_cpu: Rows executed a second of CPU time, of all processes together.
        episodes: Episodes finished a minute.
        driver_ms: Driver's CPU time a chunk, in milliseconds.
        driver: Memory of the driver, in MB.
        workers: Memory of the workers, in MB.
        faults: Attempts that failed so far.
    """

    slots: int
    minute: float
    rows: float
    rows_of_cpu: float
    episodes: float
    driver_ms: float
    driver: float
    workers: float
    faults: int

    @property
    def memory(self) -> float:
        """All processes' memory in MB."""
        return self.driver + self.workers


class Counter:
    """A sink that counts."""

    def __init__(self) -> None:
        self.rows = self.chunks = self.episodes = self.faults = 0

    async def emit(self, transition: Transition) -> None:
        """Count a chunk."""
        self.chunks += 1
        self.rows += len(transition.result.rows)
        self.episodes += transition.result.over

    async def fault(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        self.faults += 1


@dataclass(frozen=True)
class Moment:
    """Counts and clocks at a moment."""

    wall: float
    cpu: float
    driver_cpu: float
    rows: int
    chunks: int
    episodes: int

    @classmethod
    def now(cls, counter: Counter) -> Moment:
        """This one."""
        driver = psutil.Process()
        cpu = sum(_cpu(process) for process in [driver, *driver.children(recursive=True)])
        return cls(time.monotonic(), cpu, _cpu(driver), counter.rows, counter.chunks, counter.episodes)


def measure(question: Question, slots_a_worker: int, minutes: float, write: csv.DictWriter | None) -> list[Sample]:
    """Run that many slots in each worker and measure every so often."""
    counter, samples = Counter(), []
    slots = slots_a_worker * question.workers
    with (
        TemporaryDirectory() as logs,
        Rollouts(
            question.suite,
            InstantPolicy(),
            protocol=question.protocol,
            workers=question.workers,
            slots=slots_a_worker,
            sinks=[counter],
            logs=Path(logs),
        ) as rollouts,
    ):
        rollouts.collect(1)
        began = before = Moment.now(counter)
        while before.wall < began.wall + 60 * minutes:
            rollouts.collect(1)
            if time.monotonic() < before.wall + question.every:
                continue
            now = Moment.now(counter)
            samples.append(_sample(slots, began, before, now, counter.faults))
            if write is not None:
                write.writerow({name: round(value, 3) for name, value in asdict(samples[-1]).items()})
            before = now
    return samples


def _sample(slots: int, began: Moment, before: Moment, now: Moment, faults: int) -> Sample:
    gc.collect()
    driver = psutil.Process()
    wall, rows = now.wall - before.wall, now.rows - before.rows
    return Sample(
        slots=slots,
        minute=(now.wall - began.wall) / 60,
        rows=rows / wall,
        rows_of_cpu=rows / max(now.cpu - before.cpu, 1e-9),
        episodes=(now.episodes - before.episodes) / wall * 60,
        driver_ms=(now.driver_cpu - before.driver_cpu) / max(now.chunks - before.chunks, 1) * 1e3,
        driver=_megabytes([driver]),
        workers=_megabytes(driver.children(recursive=True)),
        faults=faults,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _megabytes(processes: list[psutil.Process]) -> float:
    return sum(process.memory_full_info().pss for process in processes) / MEGABYTE


def _table(title: str, samples: list[Sample]) -> Table:
    """The baseline, then the tenths of the run."""
    table = Table(title, "minute", "rows/s", "rows/CPU s", "episodes/min", "driver ms/chunk", "memory MB", "driver", "workers")
    step = max(1, len(samples) // 10)
    for sample in samples[step - 1 :: step]:
        table.add_row(
            str(sample.slots),
            f"{sample.minute:.0f}",
            f"{sample.rows:.0f}",
            f"{sample.rows_of_cpu:.0f}",
            f"{sample.episodes:.0f}",
            f"{sample.driver_ms:.2f}",
            f"{sample.memory:.0f}",
            f"{sample.driver:.0f}",
            f"{sample.workers:.0f}",
        )
    return table


def main() -> None:
    """Measure the baseline, then the slots; print a line for each tenth of the time."""
    question = tyro.cli(Question, description=__doc__)
    console = Console(width=130)
    file = None if question.out is None else question.out.open("w", newline="", buffering=1)
    write = None if file is None else csv.DictWriter(file, [field.name for field in fields(Sample)])
    if write is not None:
        write.writeheader()
    baseline = measure(question, 1, question.baseline_minutes, write)
    samples = measure(question, question.slots // question.workers, question.minutes, write)
    if file is not None:
        file.close()
    console.print(_table("slots", [*baseline[-1:], *samples]))
    half = len(samples) // 2
    first, last = samples[:half] or samples, samples[half:]
    growth = (
        (_mean([each.memory for each in last]) - _mean([each.memory for each in first])) / max(question.minutes / 2, 1e-9) * 60
    )
    rate = _mean([each.rows_of_cpu for each in last]) / _mean([each.rows_of_cpu for each in first])
    console.print(
        f"most memory {max(each.memory for each in samples):.0f} MB; second half against first: memory {growth:+.0f} MB an hour, "
        f"rows a CPU second {rate:.3f}; {samples[-1].faults} failed attempts"
    )
    one = baseline[-1].memory / question.workers
    console.print(f"one slot a worker: {one:.0f} MB each; {question.slots} of them, projected: {one * question.slots:.0f} MB")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
