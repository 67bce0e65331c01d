"""Quantiles of more data than memory holds: numpy's own to the bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.normalization import Steps

RANDOM = np.random.default_rng(0)


def exact_quantiles(trajectories: Iterable[np.ndarray], fractions: tuple[float, ...], source: str) -> np.ndarray:
    with Steps(source) as steps:
        for each in trajectories:
            steps.add(each)
        return steps.quantiles(fractions)


def check(*trajectories: np.ndarray, fractions: tuple[float, ...] = (0.01, 0.99)) -> None:
    """The quantiles are numpy's of all steps in float64, to the bit; a negative zero counts as zero."""
    ours = exact_quantiles(list(trajectories), fractions, "sampled")
    theirs = np.quantile(np.concatenate(trajectories, dtype=np.float64), fractions, axis=0)
    np.testing.assert_array_equal((ours + 0.0).view(np.uint64), (theirs + 0.0).view(np.uint64))


KINDS: dict[str, Callable[[int], np.ndarray]] = {
    "float64": lambda count: RANDOM.normal(size=(count, 3)),
    "float32": lambda count: RANDOM.normal(size=(count, 3)).astype(np.float32),
    "float16": lambda count: RANDOM.normal(size=(count, 3)).astype(np.float16),
    "integers": lambda count: RANDOM.integers(-300, 300, (count, 3)),
    "bytes": lambda count: RANDOM.integers(0, 256, (count, 3), np.uint8),
    "large integers": lambda count: RANDOM.integers(-(2**62), 2**62, (count, 3)),
    "all negative": lambda count: -RANDOM.gamma(2.0, size=(count, 3)) - 1,
    "a gripper at -1 and 1": lambda count: np.where(RANDOM.random((count, 3)) < (0.009, 0.011, 0.5), -1.0, 1.0),
    "few values": lambda count: RANDOM.choice([-0.3, 0.1, 0.7], (count, 3)),
    "constants": lambda count: np.full((count, 3), (0.1, -0.1, 0.0)),
    "zeros of both signs": lambda count: RANDOM.choice([-0.0, 0.0], (count, 3)),
    "denormals": lambda count: RANDOM.integers(-1000, 1000, (count, 3)) * 5e-324,
    "huge ranges": lambda count: RANDOM.normal(size=(count, 3)) * 10.0 ** RANDOM.integers(-307, 307, (count, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 102, 201, 5000])
def test_the_quantiles_are_numpys_to_the_bit(kind: str, count: int) -> None:
    steps = KINDS[kind](count)
    check(*np.split(steps, sorted(RANDOM.integers(0, count + 1, 3))))


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e307, max_value=1e307), min_size=1),
    fractions=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_so_are_those_of_any_numbers_at_any_fraction(values: list[float], fractions: tuple[float, ...]) -> None:
    check(np.array(values)[:, None], fractions=fractions)


def test_long_trajectories_and_many_short_ones_of_several_types_are_one_data_set() -> None:
    short = [RANDOM.normal(size=(RANDOM.integers(0, 9), 2)).astype(np.float32) for _ in range(1000)]
    check(RANDOM.normal(size=(150_000, 2)), *short, RANDOM.integers(-2, 2, (10, 2)))


def made(count: int, channels: int) -> Iterator[np.ndarray]:
    """Trajectories that are made when they are read."""
    for seed in range(count):
        yield np.random.default_rng(seed).normal(size=(100, channels)).astype(np.float32)


def test_memory_does_not_grow_with_the_data() -> None:
    peaks = []
    for count in (50, 500):
        tracemalloc.start()
        exact_quantiles(made(count, 64), (0.01, 0.99), "made")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 50e6


@pytest.mark.parametrize(
    ("trajectories", "words"),
    [
        ([], "'bad' hold 0 steps"),
        ([np.zeros((0, 3))], "'bad' hold 0 steps"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"trajectory 1 of 'bad' has the shape \(2, 4\), expected \(steps, channels\)"),
        ([np.zeros((2, 0))], r"trajectory 0 of 'bad' has the shape \(2, 0\)"),
        (np.zeros((2, 3)), r"trajectory 0 of 'bad' has the shape \(3,\)"),
        ([np.zeros((2, 3, 4))], r"has the shape \(2, 3, 4\)"),
        ([np.zeros((2, 3)), np.array([[0, np.nan, 0]])], "trajectory 1 of 'bad' holds a number that is not finite"),
        ([np.full((2, 3), -np.inf)], "trajectory 0 of 'bad' holds a number that is not finite; leave it out or repair it"),
    ],
)
def test_trajectories_without_quantiles_are_refused_in_a_sentence(trajectories: object, words: str) -> None:
    with pytest.raises(PolicyError, match=words) as refused:
        exact_quantiles(trajectories, (0.01, 0.99), "bad")  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
