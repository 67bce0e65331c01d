"""PPO's collection against a loop that simulates, then asks the policy: env steps per second with the same policy calls.

Aim: 0.9 or more. The loop's time is that of its two parts alone, added: the chunks of all envs in as many simulator processes, images
where the policy sees them and resets included, by a bare loop in the same runtime; and the policy's answers to the very requests of the
collection, in the same batches, beside an idle simulator. More than 1 means that collection simulates while the policy computes.

    python benchmarks/speed/ppo_collection.py runs/sft/policy --envs 32
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import tyro
from measured_sweep import InstantPolicy
from rich.console import Console
from rich.table import Table
from spread import spread
from steps import bare_rate

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.messages import Start
from vlarig.harness.rollouts import training_stream
from vlarig.harness.worker_spec import WorkerSpec
from vlarig.policies.api import Reply, Request
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.rl.collection import Allotment, Collector, allotted
from vlarig.rl.config import RolloutSettings


@dataclass(frozen=True)
class Settings:
    """What to collect."""

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


class Kept(QwenVlaPolicy):
    """Keeps the batches that it is asked."""

    batches: list[Sequence[Request]]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(requests)
        return super().act(requests)


def simulated(settings: Settings, rollout: RolloutSettings) -> float:
    """Steps a second of bare loops, one a worker, each with its share of the envs."""
    suite = load_suite(settings.suite)
    protocol = suite.protocol(None).derive(n_action_steps=rollout.n_action_steps)
    streams = [training_stream(suite, task, protocol, 0, 1) for task in suite.tasks]
    episodes = list(itertools.islice(itertools.chain.from_iterable(zip(*streams, strict=True)), settings.envs))
    starts = [Start(episode, InstantPolicy.needs) for episode in episodes]
    envs = settings.envs // settings.workers
    return bare_rate(WorkerSpec.of(suite), starts, settings.workers, envs, InstantPolicy().actions)


def collected(settings: Settings, rollout: RolloutSettings) -> tuple[int, float, float]:
    """Steps of a rollout, its seconds, and those of its policy's calls alone, made again afterwards."""
    policy = Kept.of(load(settings.source, device=torch.device("cpu"), compute=torch.float32))
    policy.batches = []
    with (
        TemporaryDirectory() as logs,
        Collector(rollout, Allotment(allotted(rollout)), policy, "cut", False, 0, logs=Path(logs)) as collector,
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


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    torch.set_num_threads(1)
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
    console = Console(width=130)
    console.print(table)
    ratio, extent = spread(ratios, 3)
    console.print(
        f"collection / loop: {ratio} ({extent}); {settings.envs} envs, {settings.workers} workers, {settings.turns} turns"
    )


if __name__ == "__main__":
    main()
