"""Time and memory of the trainer's steps, part by part, beside the time that their operations take at the machine's best.

`chunk` and `profile` measure the same model where it acts (`chunks.py`). What `steps` runs is `vlarig train` itself: its Trainer makes
batches, goes through micro-batches, clips, updates and reports, and the script listens as its reporter. Samples are of made-up
demonstrations that lie ready in memory, so data is collating alone: prompts to tokens, images to size and into patches, chunks to their
places.

Every turn is a whole step (`--steps`: several, on a GPU, which computes one while the data of the next is made) and then one that is
split: a clock is read where one part ends and the next begins. On a CPU the clock is the process's CPU time, so that other work on the
machine disturbs less; on a GPU reading it waits for the device, which is why whole steps are measured apart. The floor is the
operations of the step (`machine.counting`) over the rate of the product of two large squares in the same turn and precision.

Each case runs in a process of its own, so that its peak memory is its own: the largest resident set after the model is there, less the
one before; on a GPU what torch allocated at most.

    python benchmarks/speed/training.py steps
    python benchmarks/speed/training.py steps --preset 4b --device cuda --compute bfloat16 --batch 128 --micro-batch 32 --steps 4
    python benchmarks/speed/training.py chunk
    python benchmarks/speed/training.py chunk --preset 4b --device cuda --dtypes bfloat16 --batches 1 128 --views 1 --compile
    python benchmarks/speed/training.py profile --batch 16
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
import tyro
from chunks import IMAGE, Chunk, Profile, show
from machine import DTYPES, PUBLISHED, Machine, Options
from marks import BACKWARD, FORWARD, Marks, operations_by_part
from rich.console import Console
from rich.table import Table
from spread import spread

from vlarig.envs.api import Observation
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, bounds_statistics
from vlarig.training.batches import Collator, time_sampler
from vlarig.training.config import TrainConfig, read_config
from vlarig.training.parallel import Processes
from vlarig.training.reporting import ConsoleReporter
from vlarig.training.samples import ActionSample, Stream
from vlarig.training.trainer import Trainer

#: What is frozen in each case, besides the value head.
CASES = {"expert": ("vision", "language"), "all": ()}
#: Parts of a step, in their order.
PARTS = ("data", *FORWARD, *BACKWARD, "clipping, AdamW", "reporting")
#: Different samples; the stream begins again after them.
SAMPLES = 64


@dataclass(frozen=True)
class Steps(Options):
    """The trainer's steps, part by part."""

    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; weights, gradients and moments are float32."""
    batch: int = 32
    """Samples of a step."""
    micro_batch: int = 16
    """Samples that go through together; divides the batch."""
    views: Literal[0, 1, 2] = 2
    """Images of a sample."""
    steps: int = 1
    """Steps of a turn."""
    cases: tuple[Literal["expert", "all"], ...] = ("expert", "all")
    """What is trained: the action expert alone, with a frozen backbone, or everything."""
    checkpointed: tuple[bool, ...] = (False, True)
    """Whether activations within blocks are computed again in the backward pass."""


class Demonstrations(Stream):
    """Samples of one robot: other images and actions, the same words."""

    embodiments = (TABLETOP_PANDA,)
    statistics = {TABLETOP_PANDA.statistics_key: DatasetStatistics(bounds_statistics(TABLETOP_PANDA))}

    def __init__(self, views: int) -> None:
        rng = np.random.default_rng(0)
        robot = replace(TABLETOP_PANDA, cameras=dict(list(TABLETOP_PANDA.cameras.items())[:views]))
        state = np.zeros(len(robot.state_layout), np.float32)
        self._samples = []
        for number in range(SAMPLES):
            images = {tag: rng.integers(0, 256, (1, IMAGE, IMAGE, 3), np.uint8) for tag in robot.cameras}
            seen = Observation(images=images, state=state, instruction="put the red cube in the tray")
            actions = rng.uniform(-1, 1, (16, robot.action_size)).astype(np.float32)
            self._samples.append(ActionSample(f"demonstration/{number}", seen, robot, actions))

    def __getitem__(self, position: int) -> ActionSample:
        return self._samples[position % SAMPLES]


class Enough(Exception):
    """All turns are measured."""


@dataclass
class Measured:
    """What the turns of a case took, a step.

    Attributes:
        seconds: By the machine's clock, and by the wall clock, of whole steps.
        split: Seconds by part.
        peaks: FLOP/s of the machine.
        memory: Bytes at most.
    """

    seconds: list[tuple[float, float]] = field(default_factory=list)
    split: list[dict[str, float]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    memory: int = 0


class Listener:
    """The training's reporter: counts its steps, reads the clock between them, and ends it after the last turn.

    The first turn, in which memory is taken and AdamW's moments are made, is not kept.
    """

    def __init__(self, machine: Machine, options: Steps, shown: ConsoleReporter) -> None:
        self.measured = Measured()
        self.marks: Marks
        self._machine, self._options, self._shown = machine, options, shown
        self._left = 2  # the first report comes after the second step
        self._turn = 0

    def start(self, step: int, steps: int) -> None:
        gc.freeze()  # one look at all that imports made takes longer than a step of the smallest model
        self._shown.start(step, steps)

    def note(self, sentence: str) -> None:
        self._shown.note(sentence)

    def report(self, step: int, numbers: dict[str, float]) -> None:
        self._shown.report(step, numbers)
        self.marks("reporting")
        self._left -= 1
        if self._left:
            return
        steps, found = self._options.steps, self.measured
        if self._turn and self.marks.on:
            found.split.append({part: seconds / steps for part, seconds in self.marks.spent.items()})
        elif self._turn:
            seconds = self._machine.clock() - self._began[0], time.perf_counter() - self._began[1]
            found.seconds.append((seconds[0] / steps, seconds[1] / steps))
        if len(found.split) == self._options.turns:
            raise Enough
        self.marks.on = self._turn % 2 == 1
        if not self.marks.on:
            found.peaks.append(self._machine.peak(DTYPES[self._options.compute])[0])
        self._turn, self._left = self._turn + 1, steps
        self._began = self._machine.clock(), time.perf_counter()
        self.marks.begin()


def configuration(options: Steps, case: str, checkpointed: bool) -> TrainConfig:
    """That of a fine-tuning which neither ends nor saves."""
    values: dict[str, Any] = {
        "model.source": options.preset,
        "model.compute": options.compute,
        "model.frozen": [*CASES[case], "value_head"],
        "model.checkpointed": ["vision", "language", "expert"] if checkpointed else [],
        "data.source": "training:Demonstrations",
        "batch_size": options.batch,
        "micro_batch_size": options.micro_batch,
        "steps": 10**9,
        "checkpoints.every": 10**9,
        "report_every": 1,
    }
    return read_config("sft", None, [f"{name}={json.dumps(value)}" for name, value in values.items()])


def measure(machine: Machine, options: Steps, case: str, checkpointed: bool) -> tuple[Measured, dict[str, int], int]:
    """Train, and what it took; the operations of a sample by part, and those of a sample without what is computed again."""
    config, stream = configuration(options, case, checkpointed), Demonstrations(options.views)
    before = memory(machine, "VmRSS")
    with TemporaryDirectory() as place, ConsoleReporter(Console(file=io.StringIO()), Path(place), config.track, "") as shown:
        listener = Listener(machine, options, shown)
        trainer = Trainer(config, Path(place) / "run", listener, stream, Processes(0, 1, machine.device, None))
        model, learner = trainer.learner.model, trainer.learner
        listener.marks = marks = Marks(model, machine.clock)
        learner.backward = then(learner.backward, marks.backward_ended)
        learner.update = then(learner.update, lambda: marks("clipping, AdamW"))
        marks.begin()
        with contextlib.suppress(Enough):
            trainer.run()
    listener.measured.memory = memory(machine, "VmHWM") - before
    marks.remove()
    bundle = trainer.bundle
    builder = InputBuilder(model.config, bundle.tokenizer)
    collate = Collator(builder, stream.statistics, time_sampler(config.objective.time), config.seed)
    batch = collate([(0, stream[0])]).batch.to(machine.device)
    flops = operations_by_part(model, batch)
    model.checkpoint_activations()
    return listener.measured, flops, sum(operations_by_part(model, batch).values())


def then(work: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
    """A function that calls another one after its work."""

    def both(*arguments: Any, **options: Any) -> Any:
        result = work(*arguments, **options)
        after()
        return result

    return both


def memory(machine: Machine, line: str) -> int:
    """Bytes that this process has (VmRSS) or had at most (VmHWM); on a GPU those that torch allocated at most."""
    if machine.gpu:
        return torch.cuda.max_memory_allocated(machine.device)
    status = dict(each.split(":") for each in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) * 1024


def table(options: Steps, measured: Measured, flops: dict[str, int]) -> Table:
    """Each part's time, its share of the step, and how many times the floor that is."""
    found = Table("part", "ms", "min to max", "share", "GFLOP a sample", "/ floor", "min to max")

    def row(part: str, seconds: Sequence[float], flop: int) -> None:
        share = [spent / sum(whole.values()) for spent, whole in zip(seconds, measured.split, strict=True)]
        ratios = [spent * peak / (flop * options.batch) for spent, peak in zip(seconds, measured.peaks, strict=True) if flop]
        shown = (f"{flop / 1e9:.3g}", *spread(ratios, 2)) if ratios else ()
        times = spread([spent * 1e3 for spent in seconds], 1)
        found.add_row(part, *times, f"{100 * statistics.median(share):.1f} %" if part in PARTS else "", *shown)

    for part in PARTS:
        if part in measured.split[0]:
            row(part, [each[part] for each in measured.split], flops.get(part, 0))
    row("a whole step", [cpu for cpu, _ in measured.seconds], sum(flops.values()))
    return found


def show_case(console: Console, options: Steps) -> None:
    machine, (case,), (checkpointed,) = Machine(options.device, options.threads), options.cases, options.checkpointed
    measured, flops, needed = measure(machine, options, case, checkpointed)
    how = "activations computed again" if checkpointed else "activations kept"
    console.rule(f"{options.preset} in {options.compute}, trained: {case}, {how}")
    console.print(
        f"{machine.name}; batch {options.batch} by {options.micro_batch}, {options.views} views, {options.turns} turns"
    )
    console.print(table(options, measured, flops))
    rates, walls = ([options.batch / seconds[which] for seconds in measured.seconds] for which in (0, 1))
    for name, values in (("", rates), (" by the wall clock", walls)):
        median, extent = spread(values, 1)
        console.print(f"{median} samples/s{name} ({extent})")
    reached = [100 * needed * rate / peak for rate, peak in zip(rates, measured.peaks, strict=True)]
    (median, extent), (peak, peaks) = spread(reached, 1), spread([each / 1e9 for each in measured.peaks], 0)
    console.print(f"MFU, without what is computed again: {median} % ({extent}) of the peak, {peak} GFLOP/s ({peaks})")
    for name, peak in PUBLISHED.items():
        if name in machine.name:
            console.print(f"{100 * needed * statistics.median(rates) / peak:.0f} % of the published {peak / 1e12:.0f} TFLOP/s")
    console.print(f"memory: {measured.memory / 1e6:.0f} MB at most")


def show_steps(options: Steps) -> None:
    """Measure and print: one case here, several in processes of their own."""
    if len(options.cases) == len(options.checkpointed) == 1:
        show_case(Console(width=130), options)
        return
    for case in options.cases:
        for checkpointed in options.checkpointed:
            own = ["--cases", case, "--checkpointed", str(checkpointed)]
            subprocess.run([sys.executable, __file__, *sys.argv[1:], *own], check=True)


def main(options: Steps | Chunk | Profile) -> None:
    """What the command line names."""
    if isinstance(options, Steps):
        show_steps(options)
    else:
        show(options)


if __name__ == "__main__":
    main(tyro.cli(Steps | Chunk | Profile, description=__doc__))
