"""Dataclasses of tensors: the same change made to each tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def changed(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A tensor, or a dataclass of tensors and of such dataclasses, with each tensor changed; anything else as it is."""
    found: Any = value
    if isinstance(found, Tensor):
        return change(found)  # type: ignore[return-value]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = {each.name: changed(getattr(found, each.name), change) for each in dataclasses.fields(found)}
        return dataclasses.replace(found, **fields)  # type: ignore[return-value]
    return value
