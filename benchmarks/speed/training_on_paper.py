"""What a training step of `4b`, and a whole stage, take on H200s, on paper: operations, memory, communication, and what bounds a step.

Operations and activations are counted at full size without being computed (`counted.py`). Communication is that of
`training/parallel.py`: FSDP gathers float32 weights for the forward pass of every micro-batch and, where they are trained, again for
the backward pass; gradients are reduced with the last micro-batch; tests/training/test_speed.py compares it with what FSDP exchanges.
Times of links are at published line rates, and so floors; computing, what is computed again included, is at `--rate` of the published
peak. Prompts have 60 tokens of text, and 53 for each picture of 224 x 224.

    python benchmarks/speed/training_on_paper.py
    python benchmarks/speed/training_on_paper.py --kept --micro-batch 32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro
from counted import Job, activations, operations, uncomputed
from machine import PUBLISHED
from marks import BACKWARD, FORWARD
from rich.console import Console
from rich.table import Table
from torch import nn

from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.model import QwenVla
from vlarig.training.batches import micro_batches_a_step
from vlarig.training.config import TrainingError

#: Bytes a second of an H200's memory (NVIDIA H200 datasheet: 141 GB at 4.8 TB/s).
MEMORY = 4.8e12
#: Bytes a second that a GPU sends by NVLink (NVIDIA H200 datasheet: 900 GB/s, both directions together).
NVLINK = 450e9
#: GPUs of a node, and bytes a second that its network adapters send (NVIDIA DGX H200: eight ConnectX-7 of 400 Gbit/s, one a GPU).
NODE, NETWORK = 8, 8 * 50e9
#: Bytes that an update reads and writes for a weight: the gradient twice and back, to clip it; AdamW's four numbers and three of them
#: back; the weight for its norm.
UPDATED = 4 * (3 + 7 + 1)

JOBS = (
    Job("T2A, 16 steps", "t2a", 0, 16),
    Job("T2A, 128 steps", "t2a", 0, 128),
    Job("CPT, 1 camera", "cpt", 1, 16),
    Job("CPT, 3 cameras", "cpt", 3, 16),
    Job("SFT, 1 camera", "sft", 1, 16),
    Job("SFT, 3 cameras", "sft", 3, 16),
)


@dataclass(frozen=True)
class Options:
    """Options."""

    preset: Literal["4b", "small", "tiny"] = "4b"
    """Sizes of the model."""
    micro_batch: int = 16
    """Samples that go through together."""
    kept: bool = False
    """In the table of times keep activations; the trainer's default is to compute them again."""
    rate: float = 0.4
    """Share of the published peak that computing reaches."""


@dataclass(frozen=True)
class Cluster:
    """GPUs that train together, and over how many of them weights are sharded (`shard_over`); the others hold copies.

    In a ring of n GPUs (n - 1) / n of the bytes pass each link in a gather or a reduction to shards, and twice that in a reduction to
    all (NVIDIA/nccl-tests doc/PERFORMANCE.md). Between nodes there is a ring for each adapter, which takes an eighth of the bytes.
    """

    gpus: int
    shard: int

    def gather(self, size: float) -> float:
        """Seconds until each GPU of a shard group has all of so many bytes; or has its share of their sum over the group."""
        return (self.shard - 1) / self.shard * size / (NVLINK if self.shard <= NODE else min(NVLINK, NETWORK))

    def all_reduce(self, size: float) -> float:
        """Seconds until the copies have the sum of so many bytes, each GPU that of its share."""
        copies = self.gpus // self.shard
        return 2 * (copies - 1) / copies * size / (NVLINK * self.shard if self.gpus <= NODE else NETWORK)


CLUSTERS = (Cluster(1, 1), Cluster(8, 8), Cluster(8, 1), Cluster(64, 64), Cluster(64, 8), Cluster(64, 1))


@dataclass(frozen=True)
class Weights:
    """Numbers of weights, as :func:`vlarig.training.parallel.shard` groups them.

    Attributes:
        blocks: Of all blocks.
        trained_blocks: Of those that are trained.
        largest: Of the largest block.
        root: Of all others.
        trained_root: Of those of the others that are trained.
    """

    blocks: int
    trained_blocks: int
    largest: int
    root: int
    trained_root: int

    @classmethod
    def of(cls, model: QwenVla) -> Weights:
        """Those of a model, of which some is frozen."""
        inner = model.backbone.model
        blocks = [*inner.visual.blocks, *inner.language_model.layers, *model.expert.blocks]
        sizes, trained = [count(each) for each in blocks], sum(count(each, trained=True) for each in blocks)
        return cls(sum(sizes), trained, max(sizes), count(model) - sum(sizes), count(model, trained=True) - trained)

    @property
    def every(self) -> int:
        """All weights."""
        return self.blocks + self.root

    @property
    def trained(self) -> int:
        """Those that are trained."""
        return self.trained_blocks + self.trained_root

    def memory(self, shard: int, micro_batches: int) -> dict[str, float]:
        """Bytes on a GPU, activations excepted; gradients are whole until they are reduced with the last micro-batch."""
        return {
            "weights": 4 * self.every / shard,
            "gradients": 4 * self.trained / (shard if micro_batches == 1 else 1),
            "moments": 8 * self.trained / shard,
            "gathered": 4 * (self.root + 2 * self.largest) if shard > 1 else 0,  # the block at work, and the next one
        }


def count(module: nn.Module, trained: bool = False) -> int:
    """Weights of a module, or those that are trained."""
    return sum(each.numel() for each in module.parameters() if each.requires_grad or not trained)


@dataclass(frozen=True)
class Traffic:
    """Bytes of the collectives, as what is whole after a gather and before a reduction.

    Attributes:
        blocks: Gathered for blocks in a micro-batch: before the forward and before the backward pass.
        root: Gathered for all other weights in a micro-batch; they stay from the forward to the backward pass.
        reduced: Of the blocks' gradients, in a step's last micro-batch while its backward pass goes on.
        last: Of all others', after the backward pass.
    """

    blocks: int
    root: int
    reduced: int
    last: int

    @classmethod
    def of(cls, held: Weights) -> Traffic:
        """That of a training."""
        return cls(
            blocks=4 * (held.blocks + held.trained_blocks),
            root=4 * held.root,
            reduced=4 * held.trained_blocks,
            last=4 * held.trained_root,
        )


@dataclass(frozen=True)
class Step:
    """Seconds that a step's computing and links take, each on its own."""

    micro_batches: int
    computing: float
    gathers: float
    root: float
    reductions: float
    copies: float
    last: float
    update: float

    @classmethod
    def of(cls, cluster: Cluster, held: Weights, micro_batches: int, flops: float, rate: float) -> Step:
        """That of so many micro-batches for each GPU, of so many operations, which are computed at a rate."""
        traffic = Traffic.of(held)
        return cls(
            micro_batches=micro_batches,
            computing=micro_batches * flops / rate,
            gathers=micro_batches * cluster.gather(traffic.blocks),
            root=micro_batches * cluster.gather(traffic.root),
            reductions=cluster.gather(traffic.reduced),
            copies=cluster.all_reduce(traffic.reduced),
            last=cluster.gather(traffic.last) + cluster.all_reduce(traffic.last),
            update=UPDATED * held.trained / cluster.shard / MEMORY,
        )

    @property
    def links(self) -> float:
        """All communication."""
        return self.gathers + self.root + self.reductions + self.copies + self.last

    @property
    def overlapped(self) -> float:
        """Of a step that hides what it can behind computing.

        Nothing can be computed while the root's weights are gathered, nor while the last gradients are reduced; the other reductions
        have the last micro-batch. Shards and copies talk at the same time.
        """
        computing, gathers = self.computing / self.micro_batches, self.gathers / self.micro_batches
        hidden = (self.micro_batches - 1) * max(computing, gathers) + max(computing, gathers + self.reductions, self.copies)
        return hidden + self.root + self.last + self.update

    @property
    def bound(self) -> str:
        """What takes longer of that which goes on at the same time."""
        return "computing" if self.computing >= max(self.gathers + self.reductions, self.copies) else "links"

    @property
    def hidden(self) -> float:
        """Share of the communication that is hidden."""
        return 1 - (self.overlapped - self.computing - self.update) / self.links if self.links else 1.0


def main(options: Options) -> None:
    """Count, and print tables."""
    config, console, size, peak = PRESETS[options.preset](), Console(width=160), options.micro_batch, PUBLISHED["H200"]
    flops = Table("GFLOP a sample", "tokens", "vision", "language", "expert", "forward", "backward", "again", "all")
    space = Table("GB a GPU", "GPUs", "micro-batches", "weights", "gradients", "moments", "gathered", "again", "all")
    times = Table("ms a step", "GPUs", "computing", "gathers", "root's", "reductions", "copies'", "last", "update", "sum")
    for table, names in ((space, ("kept", "all")), (times, ("overlapped", "bound", "hidden", "samples/s", "MFU"))):
        for name in names:
            table.add_column(name)
    stages = Table("a whole stage", "steps", "samples", "tokens", "EFLOP", "8 GPUs", "64 GPUs", "GPU hours on 8")
    for job in JOBS:
        fastest: dict[int, float] = {}
        with uncomputed(job, config, 1, True) as (model, _):
            held = Weights.of(model)
        kept, again = (operations(job, config, checkpointed) for checkpointed in (False, True))
        needed, whole = sum(kept.values()), sum(again.values())
        sums = (sum(kept[part] for part in FORWARD), sum(kept[part] for part in BACKWARD), whole - needed, whole)
        shown = [f"{each / 1e9:.0f}" for each in (*(kept[part] for part in FORWARD), *sums)]
        flops.add_row(job.name, f"{job.tokens(config)} + {job.horizon}", *shown)
        few, many = (activations(job, config, checkpointed, size) for checkpointed in (True, False))
        settings = job.settings().model_copy(update={"micro_batch_size": size})
        for cluster in CLUSTERS:
            try:
                share = micro_batches_a_step(settings, cluster.gpus)
            except TrainingError:  # fewer micro-batches than GPUs
                continue
            name, state = f"{cluster.gpus} / {cluster.shard}", [*held.memory(cluster.shard, share).values()]
            sizes = (*state, few, sum(state) + few, many, sum(state) + many)
            space.add_row(job.name, name, str(share), *(f"{each / 1e9:.1f}" for each in sizes))
            step = Step.of(cluster, held, share, size * (needed if options.kept else whole), options.rate * peak)
            each = (step.computing, step.gathers, step.root, step.reductions, step.copies, step.last, step.update)
            seconds, rate = (*each, sum(each), step.overlapped), settings.batch_size / step.overlapped
            fastest[cluster.gpus] = max(rate, fastest.get(cluster.gpus, 0.0))
            shares = (f"{rate:.0f}", f"{100 * rate * needed / peak / cluster.gpus:.0f} %")
            times.add_row(
                job.name, name, *(f"{each * 1e3:.0f}" for each in seconds), step.bound, f"{100 * step.hidden:.0f} %", *shares
            )
        samples = settings.steps * settings.batch_size
        hours = {gpus: samples / rate / 3600 for gpus, rate in fastest.items()}
        stages.add_row(
            job.name,
            f"{settings.steps:,}",
            f"{samples / 1e6:.1f} M",
            f"{samples * (job.tokens(config) + job.horizon) / 1e9:.1f} G",
            f"{samples * needed / 1e18:.1f}",
            *(f"{hours[gpus]:.3g} h" if gpus in hours else "" for gpus in (8, 64)),
            f"{8 * hours[8]:.3g}" if 8 in hours else "",
        )
    console.print(
        f"{options.preset}: {held.every:,} weights, {held.root:,} of them in no block, at most {held.largest:,} in one"
    )
    activated = "kept" if options.kept else "computed again"
    console.print(
        f"Micro-batches of {size}; GPUs / over how many weights are sharded; in ms a step, activations are {activated}"
    )
    console.print(flops, space, times, stages, sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
