"""The predicates of generated tasks, on worlds that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlarig.envs.tabletop import layout, textures
from vlarig.envs.tabletop.goals import Goal, holds
from vlarig.envs.tabletop.world import ObjectState, World


def body(x: float, y: float, above: float = 0.0, shape: str = "cube", held: bool = False) -> ObjectState:
    centre = np.array([x, y, layout.TABLE_TOP + above + layout.SHAPES[shape].half_size[2]])
    return ObjectState(shape, centre, np.eye(3), 0.0, 0.0, held)


def world(**bodies: ObjectState) -> World:
    return World(bodies, {"tray": np.array([0.0, 0.2]), "zone": np.array([0.0, -0.2])})


CASES: list[tuple[dict[str, Any], World, World]] = [
    (
        {"kind": "in_tray", "object": "a", "tray": "tray"},
        world(a=body(0.03, 0.2, layout.TRAY_FLOOR), b=body(-0.03, 0.2, layout.TRAY_FLOOR)),
        world(a=body(0.03, 0.2, 0.045)),
    ),
    ({"kind": "in_zone", "object": "a", "zone": "zone"}, world(a=body(0.04, -0.2)), world(a=body(0.055, -0.2))),
    (
        {"kind": "on", "object": "a", "base": "b"},
        world(a=body(0, 0, 0.09), b=body(0, 0, 0.045), c=body(0, 0)),
        world(a=body(0, 0, 0.09), b=body(0, 0)),
    ),
    (
        {"kind": "next_to", "object": "a", "reference": "b", "side": "behind"},
        world(a=body(-0.08, 0), b=body(0, 0)),
        world(a=body(0.08, 0), b=body(0, 0)),
    ),
    (
        {"kind": "grouped", "objects": ["a", "b", "c"]},
        world(a=body(0, 0), b=body(0, 0.09), c=body(0, 0.18)),
        world(a=body(0, 0), b=body(0, 0.09), c=body(0, 0.2)),
    ),
    (
        {"kind": "apart", "objects": ["a", "b"], "distance": 0.2},
        world(a=body(0, 0), b=body(0, 0.21)),
        world(a=body(0, 0), b=body(0, 0.19)),
    ),
    ({"kind": "at", "object": "a", "x": 0.1, "y": 0.0, "within": 0.03}, world(a=body(0.08, 0)), world(a=body(0.06, 0))),
    (
        {"kind": "region", "object": "a", "axis": "y", "least": 0.1, "most": 0.2},
        world(a=body(0, 0.15)),
        world(a=body(0.15, 0)),
    ),
    (
        {"kind": "between", "object": "a", "objects": ["b", "c"]},
        world(a=body(0, 0.01), b=body(0, -0.1), c=body(0, 0.1)),
        world(a=body(0, 0.06), b=body(0, -0.1), c=body(0, 0.1)),
    ),
    (
        {"kind": "row", "objects": ["a", "b", "c"], "within": 0.13},
        world(a=body(0, 0), b=body(0, 0.1), c=body(0.01, -0.1)),
        world(a=body(0, 0), b=body(0, 0.1), c=body(0.1, 0)),
    ),
    ({"kind": "untouched", "object": "a", "x": 0.0, "y": 0.0}, world(a=body(0.01, 0)), world(a=body(0.04, 0))),
]


@pytest.mark.parametrize(("goal", "yes", "no"), CASES, ids=[goal["kind"] for goal, _, _ in CASES])
def test_a_predicate_holds_where_it_should(goal: dict[str, Any], yes: World, no: World) -> None:
    assert holds(goal, yes)
    assert not holds(goal, no)
    assert holds({"kind": "not", "part": goal}, no)
    held = World({**yes.objects, "a": ObjectState(**{**vars(yes.objects["a"]), "held": True})}, yes.places)
    assert not holds(goal, held), "the gripper has to let go"


def test_parts_are_composed() -> None:
    near, far = ({"kind": "at", "object": name, "x": 0, "y": 0, "within": 0.03} for name in "ab")
    seen = world(a=body(0, 0), b=body(0.1, 0))
    assert holds({"kind": "any", "parts": [far, near]}, seen)
    assert not holds({"kind": "all", "parts": [far, near]}, seen)
    with pytest.raises(ValueError, match="'floating'"):
        holds({"kind": "floating", "object": "a"}, seen)


def test_a_push_within_an_order_must_not_lift_either() -> None:
    parts = [{"kind": "in_tray", "object": "a", "tray": "tray"}, {"kind": "pushed", "object": "b", "zone": "zone"}]
    goal = Goal({"kind": "ordered", "parts": parts})
    assert not goal.update(world(a=body(0, 0.2, layout.TRAY_FLOOR), b=body(0.1, 0)))
    assert goal.update(world(a=body(0, 0.2, layout.TRAY_FLOOR), b=body(0, -0.2)))
    goal.update(world(a=body(0, 0.2, layout.TRAY_FLOOR), b=body(0, -0.2, 0.05)))
    assert goal.failed


def test_textures_are_distinct_and_pale_on_the_table() -> None:
    images = [textures.table(number) for number in range(60)]
    assert len({image.tobytes() for image in (*images, *map(textures.background, range(60)))}) == 120
    assert np.array_equal(textures.table(7), textures.table(7))
    for image in images:
        colours = image.reshape(-1, 3).astype(float)
        assert np.median((colours.max(1) - colours.min(1)) / (colours.max(1) + 1e-9)) < 0.5, "no object is as pale"
