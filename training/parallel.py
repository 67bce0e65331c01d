"""Processes that train together, started by ``torchrun``: their devices, the sharding of weights, and sums over all of them.

Weights are sharded by torch's FSDP2 (``fully_shard``): each block of the language model, the vision tower and the action expert is a
group of its own, gathered when it is at work, and all else is the root's. Weights are gathered in float32: bfloat16 would halve the
traffic and would round the norms of an update but not those of a replica that acts, see docs/training.md for what it costs.

Where each process holds all weights (``shard_over=1``), they are plain tensors, and gradients are summed in one exchange: FSDP would
copy all weights in every pass.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn import functional

from ..policies.qwen_vla.model import QwenVla
from .config import TrainingError

#: How long processes wait for one that evaluates.
_PATIENCE = timedelta(hours=12)

#: Seconds that gloo's threads get to let go of the tensors of the last exchange.
_LAST_TENSORS = 0.5


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: Its number.
        world: How many there are.
        device: Where its weights are.
        mesh: Over which weights are sharded; ``None`` where there is one process.
    """

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None

    @property
    def first(self) -> bool:
        """Whether it writes files and reports."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether it holds a part of the weights; otherwise it holds all of them."""
        return self.mesh is not None and self.mesh.size(self.mesh.ndim - 1) > 1

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes of numbers on the CPU, by a group that no GPU waits for."""
        if self.mesh is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on the device."""
        if self.mesh is not None:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """A value of every process, in the order of their numbers; it travels as JSON."""
        if self.mesh is None:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        distributed.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(size) for size in sizes)
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        distributed.all_gather(padded, functional.pad(data, (0, longest - len(data))))
        return [json.loads(bytes(each[: int(size)].tolist())) for each, size in zip(padded, sizes, strict=True)]

    def wait(self) -> None:
        """Wait for all others to come here."""
        self.sum([0.0])


@contextmanager
def processes(shard_over: int | None = None) -> Iterator[Processes]:
    """This process among those that ``torchrun`` started, or alone; weights are sharded over groups of ``shard_over``, or over all."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Processes(0, 1, device, None)
        return
    group = world if shard_over is None else shard_over
    if world % group:
        raise TrainingError(f"shard_over is {group}, and {world} processes are not a multiple of it; change one of the two")
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        if group == world:
            mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
        else:
            mesh = init_device_mesh(device.type, (world // group, group), mesh_dim_names=("copy", "shard"))
        yield Processes(rank, world, device, mesh)
    finally:
        distributed.destroy_process_group()
        # torch's caches keep the group and so gloo's threads alive. One that has not let go of its last tensor when the
        # interpreter ends aborts the process ("terminate called without an active exception"), and torchrun calls it failed.
        time.sleep(_LAST_TENSORS)


def shard(model: QwenVla, mesh: DeviceMesh) -> None:
    """Have the processes of a mesh share the model's weights, in place; every process has the same ones before."""
    inner = model.backbone.model
    for blocks in (inner.visual.blocks, inner.language_model.layers, model.expert.blocks):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("encode", "velocity", "value"):
        register_fsdp_forward_method(model, method)


def sum_gradients(weights: Sequence[torch.Tensor]) -> None:
    """Sum the gradients of weights that every process holds whole, in place; all have gradients of the same weights.

    One exchange of all of them, which takes their memory once more: on a CPU one for each weight took a fifth more of a step's time.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    for gradient, summed in zip(gradients, together.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A weight, or a norm of weights, of all processes together; without a gradient."""
    own = tensor.detach()
    return own.full_tensor() if isinstance(own, DTensor) else own
