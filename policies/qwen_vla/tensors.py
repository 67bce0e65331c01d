"""Tensors: dataclasses of them that move together, the precision that their products are computed in, and memory that processes share.

Weights that several processes of a machine have in common are in a file in memory: one puts them there, all map it. They come from a
checkpoint's files, in whatever precision, or from a preset's generator. They are read, converted or sampled once, and N processes take
the memory of one. A process that writes to a weight gets a copy of that page for itself.

The file holds the weights' size in its first 8 bytes, which is written last; the weights; and a text that names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..api import PolicyError

T = TypeVar("T")

#: In the metadata of a field that is read on the CPU wherever the others are.
STAYS = "stays"


def changed(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A tensor, or a dataclass of tensors and of such dataclasses, with each tensor changed; anything else as it is.

    So is a field whose metadata have :data:`STAYS`.
    """
    found: Any = value
    if isinstance(found, Tensor):
        return change(found)  # type: ignore[return-value]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        names = [each.name for each in dataclasses.fields(found) if not each.metadata.get(STAYS)]
        return dataclasses.replace(found, **{name: changed(getattr(found, name), change) for name in names})  # type: ignore[return-value]
    return value


class Tensors:
    """A dataclass of tensors, as for :func:`changed`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return changed(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in pinned memory, from which a GPU copies without waiting; a DataLoader calls it."""
        return changed(self, Tensor.pin_memory)


def computing(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Multiply matrices in ``dtype`` for the block, float32 or bfloat16, whatever the autocast around it.

    Without autocast's cache: it would keep the rounded copies of all weights until the end of the block.
    """
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever the precision of its weights, its input and the autocast around it.

    The velocity enters Euler steps and, in RL, a Gaussian's log-probability divided by a small standard deviation: rounding it to
    bfloat16 there moves the probability ratio.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """``float32[..., out]`` of ``[..., in]``."""
        with computing(input.device, torch.float32):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(input.float(), self.weight.float(), bias)


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


#: Bytes that the beginning of each tensor is a multiple of, as where torch allocates it: kernels may round by it.
_ALIGNMENT = 64


def share(model: nn.Module, file: Path, fill: Callable[[], str]) -> str:
    """Have the model's weights lie in a file that other processes have too.

    Args:
        model: The same in every process, on the CPU, its weights not set.
        file: The file, empty at first.
        fill: Sets the weights, in the process that comes first, and returns what names them.

    Returns:
        What ``fill`` returned, in whichever process it was called.
    """
    tensors = _tensors(model)
    end = _place(tensors, None)
    with file.open("r+b", buffering=0) as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # until it is closed
        filled = int.from_bytes(opened.read(8), "little")  # where the weights end
        if not filled:  # or the process that began to has not finished
            opened.truncate(end)
            _place(tensors, torch.UntypedStorage.from_file(str(file), shared=True, nbytes=end))
            name = fill()
            opened.seek(end)
            opened.write(name.encode())
            opened.seek(0)
            opened.write(end.to_bytes(8, "little"))
        elif filled != end:
            raise PolicyError("the weights that other replicas hold are of another size; the checkpoint has changed meanwhile")
        _place(tensors, torch.UntypedStorage.from_file(str(file), shared=False, nbytes=end))
        opened.seek(end)
        return opened.read().decode()


def _tensors(model: nn.Module) -> list[list[Tensor]]:
    """The model's weights, those that share memory side by side."""
    same: dict[int, list[Tensor]] = {}
    for tensor in model.state_dict(keep_vars=True).values():
        same.setdefault(tensor.data_ptr(), []).append(tensor)
    return list(same.values())


def _place(tensors: list[list[Tensor]], storage: Any) -> int:
    """Have the tensors lie in ``storage`` one after the other, if there is one; the number of the byte after the last."""
    end = _ALIGNMENT  # the size is before them
    for same in tensors:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = begin + same[0].nbytes
        if storage is not None:
            whole = torch.empty(0, dtype=same[0].dtype).set_(
                storage, begin // same[0].itemsize, same[0].shape, same[0].stride()
            )
            for tensor in same:
                tensor.data = whole
    return end
