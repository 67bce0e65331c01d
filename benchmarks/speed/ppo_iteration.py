"""An iteration of PPO at the paper's size (128 envs, 8,192 chunks, four epochs): its phases, and the memory of all processes.

Memory is the proportional set size of every process, so that what workers share counts once; the most of all seconds is printed.

    python benchmarks/speed/ppo_iteration.py runs/sft/policy --suites tabletop --iterations 2
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
import tyro
from rich.console import Console
from rich.table import Table

from vlarig.rl.config import read_ppo_config
from vlarig.rl.run import tune
from vlarig.training.reporting import SilentReporter

MEGABYTE = 2**20
PHASES = ("collect", "sync", "update", "iteration")


@dataclass(frozen=True)
class Settings:
    """What to run."""

    source: tyro.conf.Positional[str]
    """A checkpoint's folder."""
    suites: tuple[str, ...] = ("tabletop",)
    """Suites to roll out in."""
    iterations: int = 1
    """Iterations; each is a line."""
    override: tuple[str, ...] = ()
    """Further values of the configuration."""


class Reported(SilentReporter):
    """A reporter that keeps the numbers of each iteration."""

    def __init__(self) -> None:
        self.numbers: list[Mapping[str, float]] = []

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        self.numbers.append(numbers)


@contextlib.contextmanager
def most_memory() -> Iterator[list[float]]:
    """The most megabytes of all processes, and of this one, looked at once a second."""
    most, over = [0.0, 0.0], threading.Event()

    def look() -> None:
        driver = psutil.Process()
        while not over.wait(1.0):
            own = driver.memory_full_info().pss
            others = 0
            for process in driver.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    others += process.memory_full_info().pss
            most[:] = max(most[0], (own + others) / MEGABYTE), max(most[1], own / MEGABYTE)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    torch.set_num_threads(1)
    own = [
        f"model.source={settings.source}",
        "model.any_checkpoint=true",
        "model.compute=float32",
        f"rollout.suites={list(settings.suites)}",
        f"iterations={settings.iterations}",
        "track=[]",
    ]
    config, reporter = read_ppo_config(None, (*own, *settings.override)), Reported()
    with TemporaryDirectory() as folder, most_memory() as most:
        tune(config, Path(folder) / "run", reporter)
    table = Table("iteration", *(f"{name}, s" for name in PHASES), "episodes")
    for number, numbers in enumerate(reporter.numbers, 1):
        table.add_row(str(number), *(f"{numbers[f'time/{name}']:.1f}" for name in PHASES), f"{numbers['env/episodes']:.0f}")
    console = Console(width=130)
    console.print(table)
    console.print(
        f"{config.rollout.envs} envs, {config.rollout.envs * config.rollout.chunks} chunks an iteration, {config.ppo.epochs} epochs; "
        f"most memory {most[0]:.0f} MB, of which this process {most[1]:.0f} MB"
    )


if __name__ == "__main__":
    main()
