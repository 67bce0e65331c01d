"""A policy's requests, its seconds, and the effect of batches on its answers: counted during a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

#: Answers whose rounding is measured: of the batches number 1, 2, 4, 8 and so on, so that a long run costs no more.
MOST_COMPARED = 12


@dataclass
class Rounding:
    """The effect of the batch's shape on a neural policy's answers: the same request was answered alone too.

    Attributes:
        compared: Answers that were compared.
        largest: Largest difference of a number, in the actions' own units.
    """

    compared: int = 0
    largest: float = 0.0


@dataclass
class SizeLoad:
    """Batches of about one size.

    Attributes:
        batches: How many.
        requests: Requests in them.
        seconds: Seconds that the policy was busy with them.
    """

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: SizeLoad) -> SizeLoad:
        return SizeLoad(self.batches + other.batches, self.requests + other.requests, self.seconds + other.seconds)


@dataclass
class Load:
    """A policy's requests, and how long they took; loads add up.

    Attributes:
        batches: Batches that were answered.
        requests: Requests in them.
        seconds: Seconds that the policy was busy.
        queued: Seconds that requests waited before their batch began, all together.
        held_back: Batches that left requests waiting because they were full.
        first: Seconds of the first batch, in which a policy may compile or load.
        sizes: The other batches by size, rounded up to a power of two.
    """

    batches: int = 0
    requests: int = 0
    seconds: float = 0.0
    queued: float = 0.0
    held_back: int = 0
    first: float = 0.0
    sizes: dict[int, SizeLoad] = field(default_factory=dict)

    def add(self, requests: int, seconds: float) -> None:
        """Count a batch of ``requests`` that kept the policy busy for ``seconds``."""
        self.batches += 1
        self.requests += requests
        self.seconds += seconds
        if self.batches == 1:
            self.first = seconds
            return
        size = 1 << (requests - 1).bit_length()
        self.sizes[size] = self.sizes.get(size, SizeLoad()) + SizeLoad(1, requests, seconds)

    def __add__(self, other: Load) -> Load:
        numbers = {
            each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self) if each.name != "sizes"
        }
        both = sorted(self.sizes.keys() | other.sizes.keys())
        sizes = {size: self.sizes.get(size, SizeLoad()) + other.sizes.get(size, SizeLoad()) for size in both}
        return Load(**numbers, sizes=sizes)


def side_by_side(loads: Sequence[Load]) -> Load:
    """The load of replicas that answer side by side, as if of one policy.

    Its requests are the sum of theirs; its busy seconds are their mean, so that it is busy all the time where they all are.
    """
    whole, count = sum(loads[1:], loads[0]), len(loads)
    sizes = {size: replace(each, seconds=each.seconds / count) for size, each in whole.sizes.items()}
    return replace(whole, seconds=whole.seconds / count, first=whole.first / count, sizes=sizes)
