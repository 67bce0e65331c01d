"""Latency and throughput of a Qwen-VLA against its batch size, part by part, beside what its operations take at the machine's best.

The floor, measured in the same turns, is the operations of the matrix products over the rate at which the machine multiplies two large
squares in the same precision. On a GPU a part has to read its weights too, at the rate of a large copy, and the larger of the two is
the floor; beside it stands the one that follows from the maker's figures. Times on a CPU are the process's CPU time, so that neighbours
on the machine disturb less; the clock on the wall stands beside it.

    python benchmarks/speed/qwen_vla.py
    python benchmarks/speed/qwen_vla.py --preset 4b --device cuda --dtypes bfloat16 --batches 1 128 --views 1 --compile --training
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import qwen_vla_profile
import torch
import transformers
import tyro
from asking import spread
from qwen_vla_machine import Cost, Machine, Peak
from qwen_vla_parts import STEPS, Part, Subject
from qwen_vla_training import Training, measure
from rich.console import Console
from rich.table import Table

from vlarig.policies.qwen_vla.acceleration import kernels_in_use, plain

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: A measurement goes through this many samples at least, so that small batches are not measured by the clock's resolution.
SAMPLES = 16


@dataclass(frozen=True)
class Options:
    """What to measure."""

    preset: Literal["4b", "small", "tiny"] = "small"
    """Whose sizes; the weights are random and made on the device."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    threads: int = 1
    """Threads on a CPU."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Precisions of the weights."""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """Batch sizes."""
    views: Literal[1, 2] = 2
    """Pictures of a sample."""
    turns: int = 5
    """How often everything is measured; medians are printed."""
    compile: bool = False
    """Measure it under torch.compile too."""
    training: bool = False
    """Measure training steps too, in the last of the precisions."""
    training_batch: int = 128
    """Samples of a training step."""
    micro_batch: int = 32
    """Samples that go through together in training; halved until they fit the memory."""
    profile: bool = False
    """Print what dominates each part, at the largest of the batch sizes, instead of measuring."""
    json: Path | None = None
    """Write every measurement to this file."""


@dataclass(frozen=True)
class Turn:
    """One measurement of a part.

    Attributes:
        cost: What it took.
        floor: Milliseconds at the machine's measured best.
        rated_floor: The same by the maker's figures, where they are known.
    """

    cost: Cost
    floor: float
    rated_floor: float | None

    @property
    def ratio(self) -> float:
        """Times the floor; 0 where there is none."""
        return self.cost.busy / self.floor if self.floor else 0.0


Seen = dict[tuple[str, int, str], list[Turn]]
"""The turns by variant, batch size and part."""


def ways(subject: Subject, compiled: bool) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
    """Ways to run the same model, by name: as it is, compiled, and with torch's own kernels where there are others."""
    found: dict[str, Any] = {
        "eager": (lambda: torch.compiler.set_stance("force_eager")) if compiled else contextlib.nullcontext
    }
    if compiled:
        found["compiled"] = contextlib.nullcontext
    if any(kernels_in_use().values()):
        found["eager, torch's kernels"] = plain
    return found


def ordered(dtypes: tuple[str, ...]) -> list[str]:
    """bfloat16 first: a policy in float32 puts torch's own kernels in for the rest of the process."""
    return sorted(dtypes)


@torch.no_grad()
def infer(machine: Machine, options: Options, dtype: torch.dtype) -> tuple[Seen, list[Peak], int, dict[str, float]]:
    """Measure chunks in turns.

    Returns:
        The turns, the machine's peak in each turn, tokens of a prompt, and GFLOP of a sample by part.
    """
    subject = Subject(options.preset, machine.device, dtype, options.views, options.compile)
    whole = {batch: [subject.chunk_part(batch), *subject.parts(batch)] for batch in options.batches}
    work = [(way, batch, part) for way in ways(subject, options.compile) for batch in options.batches for part in whole[batch]]
    entered = ways(subject, options.compile)
    for way, _, part in 2 * work:  # the first call compiles, the second may compile again for batches of any size
        with entered[way]():
            part.work()
    seen: Seen = {}
    peaks = []
    for _ in range(options.turns):
        peaks.append(machine.peak(dtype))
        for way, batch, part in work:
            with entered[way]():
                cost = machine.cost(part.work, max(SAMPLES // batch, 1))
            turn = Turn(cost, floor(part, peaks[-1].matmul, peaks[-1].memory), rated_floor(machine, part, dtype))
            seen.setdefault((way, batch, part.name), []).append(turn)
    moment = subject.moment(1)
    return seen, peaks, moment.tokens, {name: figure / 1e9 for name, figure in asdict(moment.flops).items()}


def floor(part: Part, matmul: float, memory: float | None) -> float:
    """Milliseconds that a part takes at least at these rates."""
    return max(part.flops / matmul, part.read / memory if memory else 0.0) * 1e3


def rated_floor(machine: Machine, part: Part, dtype: torch.dtype) -> float | None:
    """The floor by the maker's figures."""
    rated = machine.rated(dtype)
    return None if rated is None else floor(part, *rated)


def chunk_table(seen: Seen, way: str, options: Options, machine: Machine) -> Table:
    """Observations to actions, by batch size."""
    rated = any(turn.rated_floor for turn in seen[way, options.batches[0], "act"])
    busy = "GPU ms" if machine.gpu else "CPU ms"
    table = Table(
        "batch", "ms", "min to max", busy, "min to max", "chunks/s", "/ floor", "min to max", *["/ rated floor"] * rated
    )
    for batch in options.batches:
        turns = seen[way, batch, "act"]
        wall = [turn.cost.wall for turn in turns]
        by_maker = [turn.cost.busy / turn.rated_floor for turn in turns if turn.rated_floor]
        table.add_row(
            str(batch),
            *spread(wall, 1),
            *spread([turn.cost.busy for turn in turns], 1),
            f"{batch / statistics.median(wall) * 1e3:.1f}",
            *spread([turn.ratio for turn in turns], 1),
            *([spread(by_maker, 1)[0]] if by_maker else []),
        )
    return table


def part_table(seen: Seen, way: str, options: Options, machine: Machine) -> Table:
    """Each part by batch size: milliseconds, and how many times the floor that is."""
    table = Table(f"{'GPU' if machine.gpu else 'CPU'} ms (/ floor)", *(f"batch {batch}" for batch in options.batches))
    for name in dict.fromkeys(name for _, _, name in seen):
        table.add_row(name, *(_cell(seen[way, batch, name]) for batch in options.batches))
    return table


def _cell(turns: Sequence[Turn]) -> str:
    ratio = statistics.median(turn.ratio for turn in turns)
    return f"{statistics.median(turn.cost.busy for turn in turns):.2f}" + (f" ({ratio:.1f})" if ratio else "")


def trainings(machine: Machine, options: Options, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Training steps as rows of plain data.

    The expert's alone, with the backbone's states at hand, and the whole model's, without gradient checkpointing and with it in the
    backbone.
    """
    for name, whole, checkpointing, passes in (
        ("expert alone", False, False, 0),
        ("all", True, False, 3),
        ("all, checkpointed", True, True, 4),
    ):
        gc.collect()
        subject = Subject(options.preset, machine.device, torch.float32 if whole else dtype, options.views)
        moment = subject.moment(min(options.micro_batch, options.training_batch))
        training = Training(subject.model, moment, whole, checkpointing, dtype)
        matmul = machine.peak(dtype).matmul
        sizes = [len(moment.mask) >> halvings for halvings in range(len(moment.mask).bit_length())]
        fitting = [size for size in sizes if options.training_batch % size == 0]
        turns = measure(machine, training, options.training_batch, fitting, options.turns)
        flops = options.training_batch * moment.flops.training(passes)
        rated = machine.rated(dtype)
        yield {
            "training": name,
            "batch": options.training_batch,
            "micro_batch": turns[0].micro_batch,
            "wall_ms": [turn.cost.wall for turn in turns],
            "busy_ms": [turn.cost.busy for turn in turns],
            "optimizer_ms": [turn.optimizer.busy for turn in turns],
            "tflop": flops / 1e12,
            "floor_ms": flops / matmul * 1e3,
            "rated_floor_ms": flops / rated[0] * 1e3 if rated else None,
            "gigabytes": turns[0].gigabytes,
        }
        del subject, moment, training


def training_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line for each way to train."""
    titles = ("trained", "batch", "micro", "ms", "min to max", "AdamW", "samples/s", "/ floor", "/ rated", "GB")
    table = Table(*titles)
    for row in rows:
        busy = statistics.median(row["busy_ms"])
        table.add_row(
            row["training"],
            str(row["batch"]),
            str(row["micro_batch"]),
            *spread(row["busy_ms"], 0),
            f"{statistics.median(row['optimizer_ms']):.1f}",
            f"{row['batch'] / busy * 1e3:.1f}",
            f"{busy / row['floor_ms']:.2f}",
            f"{busy / row['rated_floor_ms']:.2f}" if row["rated_floor_ms"] else "",
            f"{row['gigabytes']:.1f}" if row["gigabytes"] else "",
        )
    return table


def profile(machine: Machine, options: Options, console: Console) -> None:
    """Print what dominates."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler reports its own starts and stops
    batch = max(options.batches)
    for name in ordered(options.dtypes):
        subject = Subject(options.preset, machine.device, DTYPES[name], options.views, options.compile)
        wanted = ("inputs", "  vision", "  language model", "Euler step")
        with torch.no_grad():
            parts = [part for part in subject.parts(batch) if part.name in wanted]
            console.rule(f"{options.preset}, {name}, batch {batch}")
            for table in qwen_vla_profile.tables(machine, parts, options.turns):
                console.print(table)


def conditions(machine: Machine, options: Options) -> dict[str, Any]:
    """Where and with what it was measured."""
    kernels = kernels_in_use() if machine.gpu else {}

    def kernel_of(package: str, name: str) -> str:
        return f"{name} in bfloat16" if kernels.get(package) else "torch"

    return {
        "machine": machine.name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "delta_rule": kernel_of("fla", "flash-linear-attention"),
        "short_convolution": kernel_of("causal_conv1d", "causal-conv1d"),
        "options": {name: str(value) for name, value in asdict(options).items()},
    }


def main(options: Options) -> None:
    """Measure and print; ``--json`` writes every single measurement."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: torch sees no GPU here; take --device cpu")
    machine, console = Machine(device, options.threads), Console()
    if options.profile:
        profile(machine, options, console)
        return
    report: dict[str, Any] = conditions(machine, options) | {"inference": [], "peaks": {}, "training": []}
    console.print(", ".join(f"{name} {value}" for name, value in report.items() if isinstance(value, str)))
    for name in ordered(options.dtypes):
        seen, peaks, tokens, gigaflops = infer(machine, options, DTYPES[name])
        report["peaks"][name] = [asdict(peak) for peak in peaks]
        report |= {"tokens": tokens, "gflop_a_sample": gigaflops}
        report["inference"] += [
            {"dtype": name, "way": way, "batch": batch, "part": part.strip(), "turns": [asdict(turn) for turn in turns]}
            for (way, batch, part), turns in seen.items()
        ]
        peak = spread([each.matmul / 1e9 for each in peaks], 0)
        for way in dict.fromkeys(way for way, _, _ in seen):
            console.rule(f"{options.preset}, {name}, {way}")
            console.print(f"peak: {peak[0]} GFLOP/s ({peak[1]}), product of two large squares")
            console.print(f"observations to actions, {STEPS[0]} Euler steps, prompts of {tokens} tokens, {options.views} views")
            console.print(chunk_table(seen, way, options, machine))
            console.print(part_table(seen, way, options, machine))
    console.print(
        "GFLOP of a sample: " + ", ".join(f"{part} {figure:.4g}" for part, figure in report["gflop_a_sample"].items())
    )
    if options.training:
        report["training"] = list(trainings(machine, options, DTYPES[options.dtypes[-1]]))
        console.rule(f"{options.preset}, training, products in {options.dtypes[-1]}")
        console.print(training_table(report["training"]))
    console.print(f"medians of {options.turns} turns")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
