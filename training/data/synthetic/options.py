"""What to make of language-action data: the options of ``vlarig data synthesize``, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

Count = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class SynthesizeOptions:
    """Make language-action data: planned trajectories of six arms with instructions. The same command makes what is missing."""

    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the data; a shard is TEMPLATE/ARM/shard-00012.parquet."""
    arm: str = "all"
    """An arm, or all."""
    template: str = "all"
    """A template, or all."""
    shards: str = "0"
    """First and last shard of each pair, such as 0-9, or one."""
    seed: Count = 0
    """Another seed is other data."""
    attempts: Count = 256
    """Motions that are sampled for a shard; fewer are kept."""
    workers: Count = 1
    """Processes, each with one thread."""
    device: str = "cpu"
    """Where to plan: cpu or cuda."""
