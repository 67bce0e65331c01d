"""Dataclasses of tensors, which move together: the same change made to each tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

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
