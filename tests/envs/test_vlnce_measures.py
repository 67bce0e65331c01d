"""VLN-CE's measures on cases that were worked out by hand, and against second implementations."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.vlnce.measures import Measures, Warping, fast_warping

GOAL = np.array([10.0, 0.0, 0.0])


def along_x(position: np.ndarray) -> float:
    """The distance to the goal on a straight corridor."""
    return float(abs(GOAL[0] - position[0]))


def walk(*xs: float, stop: bool = True, reference: np.ndarray | None = None, distance=along_x) -> dict[str, float]:
    """The measures of a way through these x, from the first on."""
    measures = Measures(distance, np.array([xs[0], 0, 0], np.float32), 3.0, reference)
    for x in xs[1:]:
        measures.move(np.array([x, 0, 0], np.float32), False)
    if stop:
        measures.stop()
    return measures.report() | {"success": float(measures.success)}


def test_a_stop_counts_below_three_metres_and_not_at_three() -> None:
    at, below = walk(0, 7), walk(0, 7.25)
    assert (at["success"], at["oracle_success"], at["spl"], at["navigation_error"]) == (0, 0, 0, 3.0)
    assert (below["success"], below["oracle_success"], below["navigation_error"]) == (1, 1, 2.75)
    assert below["spl"] == 1.0  # 10 m were the shortest way, and it went 7.25


def test_without_a_stop_nothing_is_solved() -> None:
    measured = walk(0, 9, stop=False)
    assert (measured["success"], measured["spl"], measured["oracle_success"], measured["steps_taken"]) == (0, 0, 1, 1)


def test_having_been_there_is_oracle_success_alone_and_detours_cost_path_length() -> None:
    passed = walk(0, 9, 0)
    assert (passed["oracle_success"], passed["success"], passed["path_length"], passed["navigation_error"]) == (1, 0, 18, 10)
    assert (walk(0, -5, 8)["spl"], walk(0, -5, 8)["steps_taken"]) == (pytest.approx(10 / 18), 3)
    assert walk(8, stop=True)["oracle_success"] == 1  # the start counts


def test_no_way_to_the_goal_is_an_infinite_error() -> None:
    assert walk(0, 1, distance=lambda position: math.inf)["navigation_error"] == math.inf


def test_the_distance_is_measured_anew_only_where_the_agent_moved() -> None:
    calls: list[float] = []

    def counted(position: np.ndarray) -> float:
        calls.append(float(position[0]))
        return along_x(position)

    walk(0, 0, 0.00005, 1, distance=counted)
    assert calls == [0.0, 1.0]


def test_ndtw_of_the_reference_itself_is_one_turns_add_nothing_and_a_metre_aside_costs() -> None:
    reference = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert walk(0, 1, 1, 1, 2, reference=reference)["ndtw"] == 1.0
    # All three points are matched at no cost but the last, which the way's end at 1 leaves 1 m away: exp(-1 / (3 * 3)).
    assert walk(0, 1, reference=reference)["ndtw"] == pytest.approx(math.exp(-1 / 9))
    assert walk(0, 1, reference=reference)["sdtw"] == 0.0
    assert "ndtw" not in walk(0, 1)


def test_collisions_are_counted() -> None:
    measures = Measures(along_x, np.zeros(3, np.float32), 3.0)
    for collided in (True, False, True):
        measures.move(np.zeros(3, np.float32), collided)
    assert measures.report()["collisions"] == 2.0


def exact(one: np.ndarray, other: np.ndarray) -> float:
    """Dynamic time warping by its definition, cell by cell."""
    cost = np.full((len(one) + 1, len(other) + 1), np.inf)
    cost[0, 0] = 0
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            cost[i + 1, j + 1] = np.linalg.norm(a - b) + min(cost[i, j + 1], cost[i + 1, j], cost[i, j])
    return float(cost[-1, -1])


def test_warping_equals_its_definition() -> None:
    rng = np.random.default_rng(7)
    for n, m in ((1, 1), (2, 9), (17, 5), (40, 61), (90, 33)):
        one, other = (rng.normal(size=(count, 3)).cumsum(0) for count in (n, m))
        warped = Warping(other, one[0])
        for point in one[1:]:
            warped.extend(point)
        assert warped.cost == pytest.approx(exact(one, other), abs=1e-9)


def test_where_the_approximation_is_not_installed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastdtw", None)
    with pytest.raises(VlarigError, match="dtw=fast needs the package fastdtw; run: "):
        fast_warping([np.zeros(3)], np.zeros((1, 3)))
