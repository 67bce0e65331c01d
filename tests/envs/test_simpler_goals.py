"""Conditions of success in SimplerEnv's scenes: both sides of every bound, and goals that are not valid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.envs.simpler.goals import CONDITIONS, TABLE_TOP, StepState, holds

#: A source that was brought from 20 cm to 10 cm in front of the target, and lies there.
BESIDE = StepState(
    source=np.array([-0.1, 0.02, TABLE_TOP + 0.01]),
    target=np.array([-0.2, 0.02, TABLE_TOP]),
    settled_source=np.array([0.0, 0.02, TABLE_TOP + 0.01]),
    settled_target=np.array([-0.2, 0.02, TABLE_TOP]),
    speed=0.0,
    grasped=False,
    touching=False,
    above=np.array([0.1, 0.0, 0.01]),
    half_source=np.array([0.06, 0.02, 0.015]),
    half_target=np.array([0.05, 0.05, 0.005]),
    reach=0.075,
    carried=False,
)
#: Far less than matters, and far more than what is lost in a sum.
A_BIT = 1e-9

ON = {"is": "on_target", "slack": 0.02, "contact": False}
CARRIED = {"is": "on_target", "slack": 0.02, "contact": True}
MOVED = {"is": "moved", "by": 0.03}
STAYED = {"is": "target_stayed", "within": 0.03}
LOW = {"is": "low", "below": 0.035}
IN_FRONT = {"is": "offset", "axis": "x", "low": 0.05, "high": 0.15}
NEAR = {"is": "distance", "low": 0.05, "high": 0.15}
FARTHER = {"is": "farther", "by": 0.01}


def above(x: float, y: float, z: float) -> dict[str, Any]:
    return {"above": np.array([x, y, z])}


def source(x: float = 0.0, y: float = 0.0, z: float = 0.01) -> dict[str, Any]:
    """The source's centre: ``x`` and ``y`` from the target's, ``z`` above the table."""
    return {"source": np.array([x - 0.2, y + 0.02, TABLE_TOP + z])}


def shifted(name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> dict[str, Any]:
    """One of the state's places, moved."""
    return {name: getattr(BESIDE, name) + np.array([x, y, z])}


#: A condition, and what is changed about ``BESIDE`` so that it just holds, and so that it does not.
BOUNDS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # The benchmark's own: up to 7.5 cm off the centre, above it, and up to 2 cm above where it would lie.
    (ON, above(0.075, 0.0, 0.01), above(0.075 + A_BIT, 0.0, 0.01)),
    (ON, above(-0.045, 0.06 - A_BIT, 0.01), above(-0.045, 0.06 + A_BIT, 0.01)),
    (ON, above(0.0, 0.0, A_BIT), above(0.0, 0.0, 0.0)),
    (ON, above(0.0, 0.0, 0.04 - A_BIT), above(0.0, 0.0, 0.04 + A_BIT)),
    ({**ON, "slack": 0.06}, above(0.0, 0.0, 0.08 - A_BIT), above(0.0, 0.0, 0.08 + A_BIT)),
    (CARRIED, {**above(0.0, 0.0, 0.02), "carried": True}, above(0.0, 0.0, 0.02)),
    (CARRIED, {**above(0.0, 0.0, 0.02), "carried": True}, {**above(0.08, 0.0, 0.02), "carried": True}),
    # In the plane, whatever happened to the height.
    (MOVED, shifted("settled_source", x=-0.07 + A_BIT), shifted("settled_source", x=-0.07 - A_BIT)),
    (MOVED, shifted("settled_source", x=-0.1, y=-0.03 - A_BIT), shifted("settled_source", x=-0.1, z=0.05)),
    (STAYED, shifted("target", y=0.03 - A_BIT), shifted("target", y=0.03 + A_BIT)),
    (STAYED, shifted("target", z=0.05), shifted("target", x=-0.03, z=0.05)),
    ({"is": "at_rest", "below": 0.05}, {"speed": 0.05 - A_BIT}, {"speed": 0.05}),
    ({"is": "released"}, {}, {"grasped": True}),
    ({"is": "touching"}, {"touching": True}, {}),
    ({"is": "apart"}, {}, {"touching": True}),
    # Above the table, wherever the target is.
    (LOW, source(x=0.1, z=0.035 - A_BIT), source(x=0.1, z=0.035 + A_BIT)),
    (LOW, {**source(z=0.035 - A_BIT), **shifted("target", z=0.1)}, {**source(z=0.04), **shifted("target", z=0.1)}),
    # From the target, along the world's axes.
    (IN_FRONT, source(x=0.05 + A_BIT), source(x=0.05 - A_BIT)),
    (IN_FRONT, source(x=0.15 - A_BIT), source(x=0.15 + A_BIT)),
    (IN_FRONT, source(x=0.1, y=-5.0), source(x=-0.1)),
    (IN_FRONT, {}, shifted("target", x=0.06)),
    ({**IN_FRONT, "axis": "y"}, source(y=0.1), source(x=0.1, y=0.04)),
    ({**IN_FRONT, "low": None}, source(x=-5.0), source(x=0.16)),
    ({**IN_FRONT, "high": None}, source(x=5.0), source(x=0.04)),
    (NEAR, source(y=0.05 + A_BIT), source(y=0.05 - A_BIT)),
    (NEAR, source(x=-0.09, y=0.12 - A_BIT), source(x=-0.09, y=0.12 + A_BIT)),
    (NEAR, source(x=0.1, z=3.0), source(x=0.2)),
    ({**NEAR, "low": None}, source(), source(x=0.2)),
    ({**NEAR, "high": None}, source(x=5.0), source()),
    # Than at the start; 20 cm.
    (FARTHER, source(x=0.21 + A_BIT), source(x=0.21 - A_BIT)),
    (FARTHER, source(y=-0.22), source(x=0.15, z=0.5)),
    (
        FARTHER,
        {**source(x=0.2), **shifted("settled_source", x=-0.02)},
        {**source(x=0.2), **shifted("settled_source", y=0.02)},
    ),
]


def test_every_condition_has_bounds_here() -> None:
    assert {condition["is"] for condition, _, _ in BOUNDS} == set(CONDITIONS)


@pytest.mark.parametrize(("condition", "kept", "broken"), BOUNDS)
def test_a_condition_holds_on_one_side_of_its_bound(condition: dict[str, Any], kept: dict, broken: dict) -> None:
    assert holds([condition], replace(BESIDE, **kept))
    assert not holds([condition], replace(BESIDE, **broken))


def test_all_conditions_of_a_goal_must_hold() -> None:
    assert holds([MOVED, STAYED, IN_FRONT], BESIDE)
    assert not holds([MOVED, ON, STAYED], BESIDE)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"is": "flies"}, r"the goal has the condition {'is': 'flies'}; expected an 'is' among on_target, moved, .*farther"),
        ({"by": 0.03}, r"the goal has the condition {'by': 0.03}; expected an 'is' among on_target"),
        ({"is": "moved"}, r"the condition {'is': 'moved'} of the goal does not fit \(.*'by'\)"),
        ({"is": "on_target", "slack": 0.02}, r"the condition .* does not fit \(.*'contact'\)"),
        ({**MOVED, "axis": "x"}, r"the condition .* does not fit \(.*'axis'\)"),
        ({"is": "moved", "by": "far"}, r"the condition {'is': 'moved', 'by': 'far'} of the goal does not fit"),
        ({**IN_FRONT, "axis": "w"}, r"the condition 'offset' of the goal has the axis 'w'; expected one of x, y, z"),
    ],
)
def test_a_condition_that_makes_no_sense_is_named(condition: dict[str, Any], message: str) -> None:
    with pytest.raises(VlarigError, match=message):
        holds([condition], BESIDE)
    never = {"is": "at_rest", "below": 0.0}
    with pytest.raises(VlarigError, match=message):
        holds([never, condition], BESIDE)


def test_a_goal_is_not_empty() -> None:
    with pytest.raises(VlarigError, match="the goal has no condition"):
        holds([], BESIDE)


# The goals of SimplerEnv-OOD: nothing but the condition that is meant refuses an outcome.

SUITE = load_suite("simpler_ood")


def outcome(x: float, y: float, z: float, came: tuple[float, float], **changes: Any) -> StepState:
    """The source lies ``x``, ``y`` from the target and ``z`` above the table; it came from ``came``, both from the target."""
    way, back = np.array([x, y, z]), np.array([*came, z])
    target = BESIDE.target
    return replace(BESIDE, source=target + way, settled_source=target + back, above=way, **changes)


SOLVED = {
    "MoveAway": outcome(-0.2, -0.1, 0.01, (-0.15, 0.0)),
    "MoveRight": outcome(0.0, 0.12, 0.01, (-0.15, 0.0)),
    "PlaceNear": outcome(0.0, -0.1, 0.018, (0.15, -0.15)),
    "PlaceRight": outcome(0.0, 0.03, 0.02, (-0.15, 0.0), touching=True),
    "PutFront": outcome(0.12, 0.0, 0.018, (0.0, 0.15)),
    "StackYellow": outcome(
        0.0, 0.0, 0.03, (0.1, 0.1), carried=True, half_source=np.full(3, 0.015), half_target=np.full(3, 0.015)
    ),
}


def spoiled(condition: dict[str, Any], state: StepState) -> StepState:
    """The state with one condition broken, and no other."""
    away = (state.source - state.target) * [1.0, 1.0, 0.0]
    away /= max(np.linalg.norm(away), 1e-9)
    changes: dict[str, dict[str, Any]] = {
        "on_target": {"above": state.above + np.array([0.1, 0.0, 0.0])},
        "moved": {"settled_source": state.source - 0.02 * away},
        "target_stayed": {"settled_target": state.target + 0.04 * away},
        "at_rest": {"speed": 0.2},
        "released": {"grasped": True},
        "low": {"source": state.source + np.array([0.0, 0.0, 0.03])},
        "apart": {"touching": True},
        "touching": {"touching": False},
        "distance": {"source": state.source + 0.1 * away},
        "farther": {"settled_source": state.source + 0.05 * away},
    }
    if condition["is"] == "offset":
        across = np.array([1.0, 0.0, 0.0]) if condition["axis"] == "x" else np.array([0.0, 1.0, 0.0])
        return replace(state, source=state.source - 0.15 * across)
    return replace(state, **changes[condition["is"]])


@pytest.mark.parametrize("task", SOLVED)
def test_every_condition_of_an_ood_goal_refuses_something(task: str) -> None:
    goal = SUITE.payload(SUITE.task(task), 0, SUITE.protocols[0])["goal"]
    assert holds(goal, SOLVED[task])
    for condition in goal:
        state = spoiled(condition, SOLVED[task])
        assert [each for each in goal if not holds([each], state)] == [condition]
