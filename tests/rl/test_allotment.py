"""Envs by difficulty: proportional, at least one each, none lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarig.envs.errors import VlarigError
from vlarig.rl.allotment import allot


def test_harder_tasks_get_more() -> None:
    assert allot(128, {"spoon": 0.8, "carrot": 0.6, "stack": 0.2, "eggplant": 0.9}) == {
        "spoon": 17, "carrot": 34, "stack": 68, "eggplant": 9,
    }  # fmt: skip
    assert allot(7, {"a": 0.5, "b": 0.5, "c": 0.5}) == {"a": 3, "b": 2, "c": 2}
    assert allot(4, {"a": 0.0, "b": 1.0, "c": 1.0, "d": 1.0}) == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert allot(100, {"solved": 1.0, "hopeless": 0.0}) == {"solved": 5, "hopeless": 95}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 300))
def test_all_are_dealt_and_no_task_goes_empty(rates: list[float], more: int) -> None:
    success = {f"task {number}": rate for number, rate in enumerate(rates)}
    counts = allot(len(rates) + more, success)
    assert sum(counts.values()) == len(rates) + more
    assert min(counts.values()) >= 1
    for one, rate in success.items():
        for other, better in success.items():
            assert counts[one] >= counts[other] - 1 or rate > better


@pytest.mark.parametrize(
    ("envs", "success", "sentence"),
    [
        (1, {"a": 0.1, "b": 0.2}, "1 envs for 2 tasks"),
        (3, {}, "3 envs for 0 tasks"),
        (3, {"a": 1.5}, "the success rate of 'a' is 1.5; expected 0 to 1"),
        (3, {"a": float("nan")}, "the success rate of 'a' is nan"),
    ],
)
def test_what_cannot_be_is_refused(envs: int, success: dict[str, float], sentence: str) -> None:
    with pytest.raises(VlarigError, match=sentence):
        allot(envs, success)
