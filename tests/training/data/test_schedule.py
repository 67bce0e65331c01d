"""Shares of a mixture: exact over blocks, even within them, and a function of the position alone."""

from __future__ import annotations

from collections import Counter
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from vlarig.training.data.errors import DataError
from vlarig.training.data.families import TABLE_1
from vlarig.training.data.schedule import Schedule, shuffled

WEIGHTS = list(TABLE_1.values())


def test_each_position_counts_its_sources_turns() -> None:
    schedule = Schedule(WEIGHTS, seed=3)
    turns: Counter[int] = Counter()
    for position in range(3 * schedule.block):
        source, turn = schedule[position]
        assert 0 <= source < len(WEIGHTS)
        turns[source] += 1
        assert turn < 3 * schedule.block
    for source, count in turns.items():
        assert count == pytest.approx(WEIGHTS[source] / sum(WEIGHTS) * 3 * schedule.block, abs=1)
    seen: dict[int, set[int]] = {}
    for position in range(2 * schedule.block):
        source, turn = schedule[position]
        assert turn not in seen.setdefault(source, set())
        seen[source].add(turn)
    assert all(turns == set(range(len(turns))) for turns in seen.values())  # no turn is left out


def test_a_minibatch_has_the_shares_too() -> None:
    schedule = Schedule(WEIGHTS, seed=0)
    for begin in range(0, 20 * 1024, 1024):
        counts = Counter(schedule[position][0] for position in range(begin, begin + 1024))
        for source, weight in enumerate(WEIGHTS):
            assert counts[source] == pytest.approx(1024 * weight / sum(WEIGHTS), abs=4)


def test_a_far_position_is_found_at_once_and_again_after_a_pickle() -> None:
    schedule = Schedule([1.0, 2.5], seed=1)
    far = 10**12 + 17
    again = ForkingPickler.loads(ForkingPickler.dumps(schedule))
    assert schedule[far] == again[far]
    assert schedule[far][1] == pytest.approx(far * (1.0, 2.5)[schedule[far][0]] / 3.5, abs=schedule.block)
    assert [Schedule([1.0, 2.5], seed=2)[place] for place in range(50)] != [schedule[place] for place in range(50)]


def test_weights_that_cannot_be_are_refused() -> None:
    for weights in ([], [1.0, 0.0], [1.0, -1.0], [float("nan")]):
        with pytest.raises(DataError, match="expected one or more numbers above 0"):
            Schedule(weights, 0)
    with pytest.raises(DataError, match=r"the smallest weight of a mixture is 1\.0e-09 of the whole"):
        Schedule([1.0, 1e-9], 0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000])
def test_a_shuffling_has_each_index_once_an_epoch_and_another_order_in_the_next(count: int) -> None:
    epochs = [[shuffled(epoch * count + turn, count, (5, 6)) for turn in range(count)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    if count > 7:
        assert epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != [shuffled(turn, count, (5, 7)) for turn in range(count)]


def test_a_shuffling_looks_random() -> None:
    order = np.array([shuffled(turn, 5000, (0,)) for turn in range(5000)])
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert len(set(np.diff(order).tolist())) > 3000
