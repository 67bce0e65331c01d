"""Dataclasses of tensors, which move together, and the precision that products of matrices are computed in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

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
