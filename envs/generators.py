"""The global random generators that a simulator's code may use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def generators() -> tuple[Any, Any]:
    """The states of the process-wide generators."""
    return random.getstate(), np.random.get_state()


def seeded_generators(seed: int) -> tuple[Any, Any]:
    return random.Random(seed).getstate(), np.random.RandomState(seed).get_state()


def set_generators(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


@contextmanager
def using_generators(states: tuple[Any, Any]) -> Iterator[None]:
    """Within, the process-wide generators are in these states; afterwards they are as they were before."""
    before = generators()
    set_generators(states)
    try:
        yield
    finally:
        set_generators(before)
