"""Memory that replicas of Qwen-VLA take on a CPU, beside as many separate policies.

The checkpoint is made here: the preset `small` with a backbone sixteen layers deep and 1,024 wide, 227 M parameters that are all alike,
since no number depends on them. Memory is the proportional set size of all replicas after each has answered, so that what they share
counts once.

    python benchmarks/speed/replica_memory.py --counts 1 2 4
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

from vlarig.envs.api import Observation
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness.replicas import replicated_policy
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.checkpoint import Description, LoadedPolicy, load, save_checkpoint
from vlarig.policies.qwen_vla.model import build, parameter_counts


def make_checkpoint(folder: Path) -> int:
    """Write the checkpoint; its number of parameters."""
    small = load("small")
    config = small.description.config
    text = {**config.backbone["text_config"], "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}
    text["layer_types"] = ["linear_attention", "full_attention"] * 8
    backbone = {**config.backbone, "text_config": text}
    backbone["vision_config"] = {**config.backbone["vision_config"], "out_hidden_size": 1024}
    config = replace(config, backbone=backbone, expert=replace(config.expert, blocks=8))
    model = build(config, None)
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    save_checkpoint(folder, LoadedPolicy(Description(config), model, small.tokenizer, "alike"))
    return parameter_counts(model)["total"]


def request() -> Request:
    """One question."""
    images = {view: np.zeros((1, 96, 96, 3), np.uint8) for view in TABLETOP_PANDA.cameras}
    seen = Observation(images=images, state=np.zeros(8, np.float32), instruction="put the cube in the tray")
    return Request(0, "tabletop/standard@1/push_to/base/0/0", 0, 0, seen, TABLETOP_PANDA, 8)


def megabytes(checkpoint: Path, policies: int, replicas: int) -> float:
    """Memory of N policies, each with M replicas, while all run."""
    with ExitStack() as stack:
        pids: list[int] = []
        for _ in range(policies):
            policy = replicated_policy(f"qwen-vla:{checkpoint}", {}, replicas)
            stack.callback(policy.close)
            for each in policy.members:
                each.act([request()])
                assert each.pid is not None
                pids.append(each.pid)
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 1e6


def main(counts: tuple[int, ...] = (1, 2, 4)) -> None:
    """Measure, and print a table.

    Args:
        counts: Numbers of replicas.
    """
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        parameters = make_checkpoint(checkpoint)
        table = Table(title=f"{parameters / 1e6:.0f} M parameters, float32: {parameters * 4 / 1e6:.0f} MB")
        for heading in ("replicas", "MB", "MB as policies of their own"):
            table.add_column(heading, justify="right")
        for count in counts:
            shared, copied = megabytes(checkpoint, 1, count), megabytes(checkpoint, count, 1)
            table.add_row(str(count), f"{shared:.0f}", f"{copied:.0f}")
        Console().print(table)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
