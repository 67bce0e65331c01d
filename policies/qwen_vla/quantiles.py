"""Exact quantiles of a data set in memory that does not grow with it: radix selection, in passes over the data.

A quantile lies between two order statistics. Each float64 has a key, an unsigned integer of 64 bits in the same order. A pass counts
the next 13 bits of the keys that begin like the key of an order statistic, which settles these bits of it. Numbers that come from
float32, and small whole ones, have zeros in their last bits, and the passes end before those: 3 passes for such data, 5 for other.

The counts take 64 KiB for each order statistic of each channel, and twice that while they are summed. With the steps at hand two
quantiles of 7 channels take 13 MB, of 64 channels 44 MB, beside the trajectory that the data set itself holds.

Shapes: ``J`` steps of a trajectory, ``A`` channels, ``ranks`` order statistics: the lower ones of all quantiles, then the upper ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..api import PolicyError

#: Bits that a pass settles: 3 passes for the 35 bits that a float32 has in float64. More bits take more memory.
_DIGIT = 13

#: Numbers that are counted at a time; short trajectories are joined, long ones cut.
_BLOCK = 2**17

_SIGN = np.uint64(2**63)


def exact_quantiles(trajectories: Iterable[np.ndarray], fractions: Sequence[float], source: str) -> np.ndarray:
    """Quantiles of each channel over the steps of all trajectories, ``float64[len(fractions), A]``.

    They equal ``np.quantile(steps, fractions, axis=0)`` of all steps in float64 to the bit, but for the sign of a zero.

    Args:
        trajectories: Arrays ``[J, A]``, ``J`` of any size. They are iterated several times and have to be the same each time.
        fractions: Each in 0 to 1.
        source: The data set's name.

    Raises:
        PolicyError: The trajectories can be iterated only once, or are others the next time; there is no step; they differ in ``A``;
            a number is not finite.
    """
    if iter(trajectories) is iter(trajectories):
        raise PolicyError(
            f"trajectories of {source!r} can be iterated only once, and quantiles take several passes; give a list or a data set"
        )
    shape = np.shape(next(iter(trajectories), [[0.0]]))
    channels = shape[1] if len(shape) == 2 else 0
    prefixes = np.zeros((channels, 2 * len(fractions)), dtype=np.uint64)
    shift = 64 - _DIGIT
    counts, used = _count_digits(_blocks(trajectories, channels, source), prefixes, shift, _DIGIT)
    steps = int(counts[0, 0].sum())
    if steps == 0:
        raise PolicyError(f"trajectories of {source!r} hold 0 steps, and quantiles are of at least one")
    positions = (steps - 1) * np.array(fractions, dtype=np.float64)
    lower = np.floor(positions).astype(np.int64)
    ranks = np.tile(np.concatenate((lower, np.minimum(lower + 1, steps - 1))), (channels, 1))
    prefixes, ranks, matching = _settle(prefixes, ranks, counts)
    while used % 2**shift:
        width = min(_DIGIT, shift)
        shift -= width
        counts, _ = _count_digits(_blocks(trajectories, channels, source), prefixes, shift, width)
        if (counts.sum(-1) != matching).any():
            raise PolicyError(
                f"trajectories of {source!r} are others when they are iterated again; give the same in every pass"
            )
        prefixes, ranks, matching = _settle(prefixes, ranks, counts)
    lows, highs = np.split(_numbers(prefixes, shift).T, 2)
    # numpy's own interpolation: the quantile of two numbers at the share of the way from one to the other
    pairs = zip(lows, highs, positions - lower, strict=True)
    return np.stack([np.quantile((low, high), share, axis=0) for low, high, share in pairs])


def _blocks(trajectories: Iterable[np.ndarray], channels: int, source: str) -> Iterator[np.ndarray]:
    """All steps in order, ``float64[steps, A]`` of some ``_BLOCK`` numbers at a time, checked."""
    parts: list[np.ndarray] = []
    size = 0
    for index, trajectory in enumerate(trajectories):
        array = np.asarray(trajectory)
        if array.ndim != 2 or array.shape[1] != channels or channels == 0:
            raise PolicyError(
                f"trajectory {index} of {source!r} has the shape {array.shape}, expected (steps, channels) "
                "with one number of channels for all"
            )
        length = -(-_BLOCK // channels)
        for start in range(0, len(array), length):
            part = array[start : start + length].astype(np.float64)
            if not np.isfinite(part).all():
                raise PolicyError(
                    f"trajectory {index} of {source!r} holds a number that is not finite; leave it out or repair it"
                )
            parts.append(part)
            size += part.size
            if size >= _BLOCK:
                yield np.concatenate(parts)
                parts, size = [], 0
    if parts:
        yield np.concatenate(parts)


def _count_digits(blocks: Iterable[np.ndarray], prefixes: np.ndarray, shift: int, width: int) -> tuple[np.ndarray, int]:
    """How many keys that begin with a prefix have which ``width`` bits next, before ``shift`` others.

    Args:
        blocks: ``float64[steps, A]`` each.
        prefixes: Of the order statistics' keys, ``uint64[A, ranks]``.
        shift: Bits after those that are counted.
        width: Bits that are counted.

    Returns:
        ``int64[A, ranks, 2**width]``, and the bits that any number uses.
    """
    counts = np.zeros((*prefixes.shape, 2**width), dtype=np.int64)
    offsets = np.arange(prefixes.size).reshape(prefixes.shape) << width
    used = 0
    for block in blocks:
        bits = np.ascontiguousarray(block.T).view(np.uint64)
        used |= int(np.bitwise_or.reduce(bits, axis=None))
        # A positive number's sign bit is set, for it comes after the negative ones; those are inverted, for their order is.
        keys = np.where(bits & _SIGN, ~bits, bits | _SIGN) >> np.uint64(shift)
        digits = (keys & np.uint64(2**width - 1)).astype(np.int64)
        keys >>= np.uint64(width)
        for rank in range(prefixes.shape[1]):
            places = (digits + offsets[:, rank, None])[keys == prefixes[:, rank, None]]
            np.add.at(counts.reshape(-1), places, 1)
    return counts, used


def _settle(prefixes: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the prefixes of the order statistics' keys longer by the bits that were counted.

    Args:
        prefixes: ``uint64[A, ranks]``.
        ranks: Places of the order statistics among the keys that begin with these prefixes, ``int64[A, ranks]``.
        counts: Of :func:`_count_digits`.

    Returns:
        The longer prefixes, the places among the keys that begin with those, and how many such keys there are.
    """
    sums = np.cumsum(counts, axis=-1)
    digits = (sums <= ranks[..., None]).sum(-1)
    matching = np.take_along_axis(counts, digits[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(sums, digits[..., None], axis=-1)[..., 0] - matching
    return prefixes * np.uint64(counts.shape[-1]) + digits.astype(np.uint64), ranks - before, matching


def _numbers(prefixes: np.ndarray, shift: int) -> np.ndarray:
    """The numbers whose keys begin with ``prefixes`` and which use none of the last ``shift`` bits."""
    keys = prefixes << np.uint64(shift)
    return np.where(keys & _SIGN, keys ^ _SIGN, ~prefixes << np.uint64(shift)).view(np.float64)
