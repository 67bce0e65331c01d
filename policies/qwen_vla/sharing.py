"""Weights that several processes of a machine have in common: one puts them into a file in memory, all map it.

The weights come from a checkpoint's files, in whatever precision, or from a preset's generator. They are read, converted or sampled
once, and N processes take the memory of one. A process that writes to a weight gets a copy of that page for itself.

The file holds the weights' size in its first 8 bytes, which is written last; the weights; and a text that names them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..api import PolicyError

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
        filled = _filled(opened)
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


def _filled(opened: BinaryIO) -> int:
    """Where the weights end in a file that holds them; 0 for one that does not."""
    opened.seek(0)
    return int.from_bytes(opened.read(8), "little")


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
