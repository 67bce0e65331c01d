"""Which of several sources each position of an endless stream takes, and how often that source came before.

Positions are divided into blocks. In each block every source has its share, to within one; within it a source's turns are spread evenly
with some jitter, so a minibatch too has the shares (paper, section 2.5: "within each mini-batch we mix samples from all task families
according to a fixed sampling ratio"). Nothing is counted along the way: a position's source and its turn follow from the position, the
weights and the seed alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from .errors import DataError

#: Least turns of a source in a block: with fewer, rounding could take back a turn of an earlier block.
_LEAST_TURNS = 2
_SMALLEST_BLOCK = 1024
#: A block of so many positions takes 67 MB in a process.
_LARGEST_BLOCK = 2**22


class Schedule:
    """A division of positions among sources. It pickles.

    Args:
        weights: One a source, above 0, of any sum.
        seed: Of the order within a block.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights or not all(weight > 0 and np.isfinite(weight) for weight in weights):
            raise DataError(f"the weights of a mixture are {list(weights)}; expected one or more numbers above 0")
        self._edges = np.concatenate(([0.0], np.cumsum(np.array(weights, np.float64) / sum(weights))))
        self._edges[-1] = 1.0
        smallest = float(np.diff(self._edges).min())
        block = _SMALLEST_BLOCK
        while block * smallest < _LEAST_TURNS and block < _LARGEST_BLOCK:
            block *= 2
        if block * smallest < _LEAST_TURNS:
            raise DataError(
                f"the smallest weight of a mixture is {smallest:.1e} of the whole; expected {2 / _LARGEST_BLOCK:.0e} or more"
            )
        self.block = block
        self._seed = seed
        self._order = functools.lru_cache(maxsize=4)(self._block_order)

    def __reduce__(self) -> tuple[type[Schedule], tuple[list[float], int]]:
        """Pickled as its arguments; the blocks that it holds stay behind."""
        return type(self), (np.diff(self._edges).tolist(), self._seed)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """The source of a position, and how many positions before it have that source."""
        block, place = divmod(position, self.block)
        sources, turns = self._order(block)
        return int(sources[place]), int(turns[place])

    def _turns_before(self, block: int) -> np.ndarray:
        """How many turns each source had before a block, ``int64[sources]``."""
        return np.diff(np.floor(block * self.block * self._edges + 0.5).astype(np.int64))

    def _block_order(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and turn of each position of a block."""
        before = self._turns_before(block)
        counts = self._turns_before(block + 1) - before
        sources = np.repeat(np.arange(len(counts)), counts)
        ranks = np.concatenate([np.arange(count) for count in counts])
        jitter = np.random.default_rng([self._seed, block]).random(self.block)
        order = np.argsort((ranks + jitter) / counts[sources], kind="stable")
        return sources[order], (before[sources] + ranks)[order]


def shuffled(turn: int, count: int, seed: Sequence[int]) -> int:
    """The ``turn``-th index of an endless shuffling: each index comes once in ``count`` turns, each time in another order.

    A balanced Feistel network over the next power of four, in which what is beyond ``count`` is passed over (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002): no order of a large dataset has to be held. Another seed is another shuffling.
    """
    epoch, index = divmod(turn, count)
    half = max((max(count - 1, 1).bit_length() + 1) // 2, 1)
    mask = (1 << half) - 1
    keys = _keys((*seed, epoch))
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        index = left << half | right
        if index < count:
            return index


@functools.lru_cache(maxsize=256)
def _keys(seed: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(key) for key in np.random.default_rng(list(seed)).integers(2**62, size=6))


def _mixed(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    mask = 2**64 - 1
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31
