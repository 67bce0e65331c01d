"""Conditions of success, as plain data from the benchmark: the predicates of a goal over one state of the scene.

A goal is a list of conditions that must hold together, each a dict whose ``is`` names it (``{"is": "offset", "axis": "y", "low": 0.05,
"high": None}``). Conditions know neither tasks nor simulator. Lengths are in m; +x points from the table to the robot, which is down in
the image, +y to the right of the image, +z up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..errors import VlarigError

#: Height of the table's top, in m: upstream's start height of the plate, whose underside is its origin (mani_skill 3.0.1,
#: bridge_dataset_eval/put_on_in_scene.py, ``PutCarrotOnPlateInScene``).
TABLE_TOP = 0.8695

AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class StepState:
    """What conditions read.

    Attributes:
        source: Centre of the object to be moved, ``float64[3]``, in the world frame.
        target: Centre of the other one.
        settled_source: Where the source came to rest at the start.
        settled_target: Where the target did.
        speed: The source's speed in m/s.
        grasped: Whether the gripper holds the source.
        touching: Whether source and target push each other.
        above: Source minus target, as the benchmark's own predicate measures it.
        half_source: Half the source's box as it was turned at the start, ``float64[3]``.
        half_target: Half the target's.
        reach: How far apart the two may be in the plane, for the benchmark's own predicate.
        carried: Whether the target alone carries the source, by the protocol's rule.
    """

    source: np.ndarray
    target: np.ndarray
    settled_source: np.ndarray
    settled_target: np.ndarray
    speed: float
    grasped: bool
    touching: bool
    above: np.ndarray
    half_source: np.ndarray
    half_target: np.ndarray
    reach: float
    carried: bool

    @property
    def distance(self) -> float:
        """How far apart source and target are in the plane."""
        return plane(self.source - self.target)


def holds(goal: list[dict[str, Any]], state: StepState) -> bool:
    """Whether every condition of the goal holds."""
    if not goal:
        raise VlarigError("the goal has no condition, so that anything would be a success")
    verdicts = [_holds(condition, state) for condition in goal]  # each, so that a wrong one is named whatever the others return
    return all(verdicts)


def _holds(condition: dict[str, Any], state: StepState) -> bool:
    name = condition.get("is")
    if name not in CONDITIONS:
        raise VlarigError(f"the goal has the condition {condition!r}; expected an 'is' among {', '.join(CONDITIONS)}")
    values = {key: value for key, value in condition.items() if key != "is"}
    try:
        return bool(CONDITIONS[name](state, **values))
    except TypeError as error:
        raise VlarigError(f"the condition {condition!r} of the goal does not fit ({error})") from None


def plane(difference: np.ndarray) -> float:
    """Length of a difference in the table's plane."""
    return float(np.linalg.norm(difference[:2]))


def within(value: float, low: Optional[float], high: Optional[float]) -> bool:
    """Whether ``value`` lies between the bounds; ``None`` is no bound."""
    return (low is None or value > low) and (high is None or value < high)


def on_target(state: StepState, slack: float, contact: bool) -> bool:
    """SimplerEnv's own predicate: over the target, not higher than it may lie, and carried by it where ``contact`` requires that."""
    height = state.above[2]
    over = plane(state.above) <= state.reach
    low = height > 0 and height - state.half_target[2] - state.half_source[2] <= slack
    return over and low and (state.carried or not contact)


def moved(state: StepState, by: float) -> bool:
    """The source was moved by more than this, and is not back."""
    return plane(state.source - state.settled_source) > by


def target_stayed(state: StepState, within: float) -> bool:
    """The target is where it was."""
    return plane(state.target - state.settled_target) < within


def at_rest(state: StepState, below: float) -> bool:
    """The source is slower than this, in m/s."""
    return state.speed < below


def released(state: StepState) -> bool:
    return not state.grasped


def low(state: StepState, below: float) -> bool:
    """The source's centre is less than this above the table, and not below its top."""
    return 0.0 < float(state.source[2]) - TABLE_TOP < below


def touching(state: StepState) -> bool:
    return state.touching


def apart(state: StepState) -> bool:
    return not state.touching


def offset(state: StepState, axis: str, low: Optional[float], high: Optional[float]) -> bool:
    """Source minus target along an axis lies between the bounds."""
    if axis not in AXES:
        raise VlarigError(f"the condition 'offset' of the goal has the axis {axis!r}; expected one of {', '.join(AXES)}")
    return within(float((state.source - state.target)[AXES[axis]]), low, high)


def distance(state: StepState, low: Optional[float], high: Optional[float]) -> bool:
    """How far apart the two are in the plane lies between the bounds."""
    return within(state.distance, low, high)


def farther(state: StepState, by: float) -> bool:
    """The two are further apart than at the start, by more than this."""
    return state.distance > plane(state.settled_source - state.settled_target) + by


CONDITIONS: dict[str, Callable[..., bool]] = {
    condition.__name__: condition
    for condition in (on_target, moved, target_stayed, at_rest, released, low, touching, apart, offset, distance, farther)
}
