"""PPO's collection beside a loop that simulates, then asks the policy; and an iteration at the paper's size, by phase.

``collection`` compares env steps per second with the same policy calls. Aim: 0.9 or more. The loop's time is that of its two parts
alone, added: the chunks of all envs in as many simulator processes, images where the policy sees them and resets included, by a bare
loop in the same runtime; and the policy's answers to the very requests of the collection, in the same batches, beside an idle
simulator. More than 1 means that collection simulates while the policy computes.

``iteration`` takes 128 envs, 1,024 steps of each (8,192 chunks where all 16 steps of a chunk are run) and four epochs. Memory is the
proportional set size of every process, so that what workers share counts once; the most of all seconds is printed.

    python benchmarks/speed/ppo_iteration.py collection runs/sft/policy --envs 32
    python benchmarks/speed/ppo_iteration.py iteration runs/sft/policy --suites tabletop --iterations 2
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
import tyro
from measured_sweep import InstantPolicy
from rich.console import Console
from rich.table import Table
from spread import spread
from steps import bare_rate

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.messages import Start
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.rollouts import training_stream
from vlarig.policies.api import Reply, Request
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.rl.collection import Allotment, Collector, allotted
from vlarig.rl.config import PpoConfig, RolloutSettings, read_ppo_config
from vlarig.rl.run import tune
from vlarig.rl.start import with_action_steps
from vlarig.training.reporting import Reporter

MEGABYTE = 2**20
PHASES = ("collect", "sync", "update", "iteration")


@dataclass(frozen=True)
class Collection:
    """Collection against a loop that simulates, then asks the policy."""

    source: tyro.conf.Positional[str] = "small"
    """A checkpoint's folder, or a preset with random weights."""
    suite: str = "tabletop"
    """Name of the suite."""
    envs: int = 32
    """Envs of all its tasks."""
    chunks: int = 8
    """Chunks of each env in a rollout."""
    workers: int = 2
    """Simulator processes."""
    turns: int = 3
    """How often everything is measured; medians are printed."""


@dataclass(frozen=True)
class Iteration:
    """The phases of an iteration, and the memory of all processes."""

    source: tyro.conf.Positional[str]
    """A checkpoint's folder."""
    suites: tuple[str, ...] = ("tabletop",)
    """Suites to roll out in."""
    iterations: int = 1
    """Iterations; each is a line."""
    override: tuple[str, ...] = ()
    """Further values of the configuration."""


class Kept(QwenVlaPolicy):
    """Keeps the batches that it is asked."""

    batches: list[Sequence[Request]]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(requests)
        return super().act(requests)


def simulated(settings: Collection, rollout: RolloutSettings) -> float:
    """Steps a second of bare loops, one a worker, each with its share of the envs."""
    suite = load_suite(settings.suite)
    protocol = suite.protocol(None).derive(n_action_steps=rollout.n_action_steps)
    streams = [training_stream(suite, task, protocol, 0, 1) for task in suite.tasks]
    episodes = list(itertools.islice(itertools.chain.from_iterable(zip(*streams, strict=True)), settings.envs))
    starts = [Start(episode, InstantPolicy.needs) for episode in episodes]
    envs = settings.envs // settings.workers
    return bare_rate(WorkerSpec.of(suite), starts, settings.workers, envs, InstantPolicy().actions)


def collected(settings: Collection, rollout: RolloutSettings) -> tuple[int, float, float]:
    """Steps of a rollout, its seconds, and those of its policy's calls alone, made again afterwards."""
    policy = Kept.of(load(settings.source, device=torch.device("cpu"), compute=torch.float32))
    policy.batches = []
    with (
        TemporaryDirectory() as logs,
        Collector(PpoConfig(rollout=rollout), Allotment(allotted(rollout)), policy, logs=Path(logs)) as collector,
    ):
        collector.collect()  # workers start, envs begin
        policy.batches.clear()
        began = time.perf_counter()
        chunks = collector.collect().chunks
        seconds = time.perf_counter() - began
    # A chunk's steps count from its episode's beginning; what was there before an env's first chunk is not known.
    before = [0 if last.ended else last.steps for last in chunks]
    steps = sum(
        rollout.n_action_steps if index % settings.chunks == 0 else chunk.steps - before[index - 1]
        for index, chunk in enumerate(chunks)
    )
    batches = list(policy.batches)
    began = time.perf_counter()
    for batch in batches:
        policy.act(batch)
    return steps, seconds, time.perf_counter() - began


def show_collection(console: Console, settings: Collection) -> None:
    rollout = RolloutSettings(
        n_action_steps=16,
        suites=(settings.suite,),
        envs=settings.envs,
        epochs=settings.chunks,
        steps=16,
        workers=settings.workers,
    )
    found: dict[str, list[float]] = {"collection": [], "simulation alone": [], "policy alone": [], "a loop of both": []}
    ratios = []
    for _ in range(settings.turns):
        alone = simulated(settings, rollout)
        steps, seconds, thinking = collected(settings, rollout)
        found["collection"].append(steps / seconds)
        found["simulation alone"].append(alone)
        found["policy alone"].append(steps / thinking)
        found["a loop of both"].append(steps / (steps / alone + thinking))
        ratios.append(found["collection"][-1] / found["a loop of both"][-1])
    table = Table("", "env steps/s, median", "min to max")
    for name, rates in found.items():
        table.add_row(name, *spread(rates, 1))
    console.print(table)
    ratio, extent = spread(ratios, 3)
    console.print(
        f"collection / loop: {ratio} ({extent}); {settings.envs} envs, {settings.workers} workers, {settings.turns} turns"
    )


class Reported(Reporter):
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


def show_iteration(console: Console, settings: Iteration) -> None:
    own = [
        f"model.source={settings.source}",
        "model.any_checkpoint=true",
        "model.compute=float32",
        f"rollout.suites={list(settings.suites)}",
        f"iterations={settings.iterations}",
        "track=[]",
    ]
    config, reporter = with_action_steps(read_ppo_config(None, (*own, *settings.override))), Reported()
    with TemporaryDirectory() as folder, most_memory() as most:
        tune(config, Path(folder) / "run", reporter)
    table = Table("iteration", *(f"{name}, s" for name in PHASES), "episodes")
    for number, numbers in enumerate(reporter.numbers, 1):
        table.add_row(str(number), *(f"{numbers[f'time/{name}']:.1f}" for name in PHASES), f"{numbers['env/episodes']:.0f}")
    console.print(table)
    console.print(
        f"{config.rollout.envs} envs, {config.rollout.envs * config.rollout.chunks} chunks an iteration, {config.ppo.epochs} epochs; "
        f"most memory {most[0]:.0f} MB, of which this process {most[1]:.0f} MB"
    )


def main(settings: Collection | Iteration) -> None:
    torch.set_num_threads(1)
    console = Console(width=130)
    if isinstance(settings, Collection):
        show_collection(console, settings)
    else:
        show_iteration(console, settings)


if __name__ == "__main__":
    main(tyro.cli(Collection | Iteration, description=__doc__))
