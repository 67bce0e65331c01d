"""Generated tasks that move one object.

A maker gives of a placement the goal, the motion program that reaches it, and words; ``None`` where the placement does not suit it:
what it needs is not there, the goal is reached already, or something is in the way.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from .scenes import Layout
from .task_parts import (
    SIDES,
    Made,
    Maker,
    PlaceMaker,
    Template,
    all_of,
    beside_it,
    bring,
    can_push,
    carry,
    colour_of,
    free_spot,
    grouped,
    inside,
    of_colour,
    of_shape,
    on_top,
    others,
    pushed,
    shape_of,
    shuffled,
    still,
    to_spot,
    with_tray,
    with_zone,
)


def _one_inside(kind: str, alone: bool = False) -> PlaceMaker:
    """An object goes into a tray or zone; ``alone``: the others stay where they are."""

    def make(scene: Layout, rng: np.random.Generator, place: str) -> Made | None:
        obj = shuffled(rng, scene.names)[0]
        goal = inside(kind, obj, place)
        if alone:
            goal = all_of(goal, *still(scene, *others(scene, obj)))
        return Made(goal, [bring(kind, obj, place)], {"a": obj, kind: place})

    return make


def _only_of_colour(scene: Layout, rng: np.random.Generator, tray: str) -> Made | None:
    lone = [name for name in scene.names if len(of_colour(scene, colour_of(name))) == 1]
    if not lone or len(lone) == len(scene.names):
        return None
    obj = shuffled(rng, lone)[0]
    return Made(inside("tray", obj, tray), [bring("tray", obj, tray)], {"colour": colour_of(obj), "tray": tray})


def _extreme(axis: int, sign: float, kind: str) -> PlaceMaker:
    """The object that is furthest to a side goes into the tray or zone."""

    def make(scene: Layout, rng: np.random.Generator, place: str) -> Made | None:
        ranked = sorted(scene.names, key=lambda name: sign * scene.spots[name][axis])
        if sign * (scene.spots[ranked[1]][axis] - scene.spots[ranked[0]][axis]) < 0.03:
            return None
        obj = ranked[0]
        return Made(inside(kind, obj, place), [bring(kind, obj, place)], {"place": place})

    return make


def _nearest(scene: Layout, rng: np.random.Generator, tray: str) -> Made | None:
    shape = shuffled(rng, ["cube", "cylinder"])[0]
    one, two = sorted(of_shape(scene, shape), key=lambda name: float(np.linalg.norm(scene.spots[name] - scene.spots[tray])))
    gap = np.linalg.norm(scene.spots[two] - scene.spots[tray]) - np.linalg.norm(scene.spots[one] - scene.spots[tray])
    goal = all_of(inside("tray", one, tray), {"kind": "not", "part": inside("tray", two, tray)})
    return Made(goal, [bring("tray", one, tray)], {"shape": shape, "tray": tray}) if gap > 0.04 else None


def _push(alone: bool) -> PlaceMaker:
    """An object is pushed into a zone; ``alone``: the others stay where they are."""

    def make(scene: Layout, rng: np.random.Generator, zone: str) -> Made | None:
        fit = [name for name in shuffled(rng, scene.names) if can_push(scene, name, zone)]
        if not fit:
            return None
        goal = pushed(fit[0], zone)
        if alone:
            goal = all_of(goal, *still(scene, *others(scene, fit[0])))
        return Made(goal, [carry("pushed", fit[0], zone)], {"a": fit[0], "zone": zone})

    return make


def _stack(of: str, on: str, same: bool | None = None) -> Maker:
    """Stack an object of one shape on one of another; of the same colour or not, where that is said."""

    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        for obj, base in shuffled(rng, list(permutations(scene.names, 2))):
            if (shape_of(obj), shape_of(base)) == (of, on) and same in (None, colour_of(obj) == colour_of(base)):
                if same is False and len([name for name in of_shape(scene, on) if colour_of(name) != colour_of(obj)]) != 1:
                    continue
                return Made(on_top(obj, base), [carry("on", obj, base)], {"a": obj, "b": base, "of": of, "on": on})
        return None

    return make


def _beside(side: str) -> Maker:
    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
            spot = scene.spots[other] + SIDES[side]
            if scene.free(spot, (obj, other)) and np.linalg.norm(scene.spots[obj] - spot) > 0.12:
                goal = {"kind": "next_to", "object": obj, "reference": other, "side": side}
                return Made(goal, [carry("near", obj, other, SIDES[side])], {"a": obj, "b": other})
        return None

    return make


def _next_to(scene: Layout, rng: np.random.Generator) -> Made | None:
    for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
        if step := beside_it(scene, rng, obj, other):
            return Made(grouped(obj, other), [step], {"a": obj, "b": other})
    return None


def _side_by_side(shape: str) -> Maker:
    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        obj, other = shuffled(rng, of_shape(scene, shape))
        step = beside_it(scene, rng, obj, other)
        return Made(grouped(obj, other), [step], {}) if step else None

    return make


def _pair_of_colour(scene: Layout, rng: np.random.Generator) -> Made | None:
    for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
        if colour_of(obj) == colour_of(other) and (step := beside_it(scene, rng, obj, other)):
            goal = all_of(grouped(obj, other), *still(scene, *others(scene, obj, other)))
            return Made(goal, [step], {"colour": colour_of(obj)})
    return None


def _to_region(axis: str, least: float, most: float) -> Maker:
    """Bring an object to a part of the table where it is not."""

    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        for obj in shuffled(rng, scene.names):
            if least - 0.04 <= scene.spots[obj]["xy".index(axis)] <= most + 0.04:
                continue
            spot = free_spot(scene, rng, obj, **{axis: (least + 0.025, most - 0.025)})
            if spot is not None:
                goal = {"kind": "region", "object": obj, "axis": axis, "least": least, "most": most}
                return Made(goal, [to_spot(obj, spot)], {"a": obj})
        return None

    return make


def _away(scene: Layout, rng: np.random.Generator) -> Made | None:
    distance = 0.24
    for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
        if np.linalg.norm(scene.spots[obj] - scene.spots[other]) > distance - 0.05:
            continue
        for _ in range(20):
            spot = free_spot(scene, rng, obj)
            if spot is not None and np.linalg.norm(spot - scene.spots[other]) > distance + 0.025:
                goal = all_of({"kind": "apart", "objects": [obj, other], "distance": distance}, *still(scene, other))
                return Made(goal, [to_spot(obj, spot)], {"a": obj, "b": other})
    return None


def _between(scene: Layout, rng: np.random.Generator) -> Made | None:
    for obj, one, two in shuffled(rng, list(permutations(scene.names, 3))):
        spot = np.round((scene.spots[one] + scene.spots[two]) / 2, 4)
        apart = np.linalg.norm(scene.spots[one] - scene.spots[two])
        if apart < 0.2 or not scene.free(spot, (obj, one, two)) or np.linalg.norm(scene.spots[obj] - spot) < 0.1:
            continue
        goal = {"kind": "between", "object": obj, "objects": [one, two]}
        return Made(goal, [to_spot(obj, spot)], {"a": obj, "b": one, "c": two})
    return None


#: Task to what it is; the order is that of tables, and seeds what is sampled.
SHORT: dict[str, Template] = {
    "put_in_tray": Template(
        with_tray(_one_inside("tray")),
        ("put the {a} in the {tray}", "drop the {a} into the {tray}", "the {a} belongs in the {tray}"),
    ),
    "put_in_tray_alone": Template(
        with_tray(_one_inside("tray", alone=True)),
        ("put the {a} in the {tray} and touch nothing else", "move only the {a}: it goes into the {tray}"),
    ),
    "put_on_zone": Template(
        with_zone(_one_inside("zone")),
        ("put the {a} on the {zone}", "set the {a} down on the {zone}", "the {a} should stand on the {zone}"),
    ),
    "put_odd_one_in_tray": Template(
        with_tray(_only_of_colour),
        ("put the only {colour} thing in the {tray}", "the one {colour} object goes into the {tray}"),
    ),
    "leftmost_in_tray": Template(
        with_tray(_extreme(1, 1.0, "tray")),
        ("put the leftmost object in the {place}", "take what is furthest left to the {place}"),
    ),
    "rightmost_in_tray": Template(
        with_tray(_extreme(1, -1.0, "tray")),
        ("put the rightmost object in the {place}", "take what is furthest right to the {place}"),
    ),
    "farthest_on_zone": Template(
        with_zone(_extreme(0, 1.0, "zone")),
        ("put the object at the back on the {place}", "bring the object nearest to the robot's base onto the {place}"),
    ),
    "frontmost_on_zone": Template(
        with_zone(_extreme(0, -1.0, "zone")),
        ("put the object at the front on the {place}", "bring the object furthest from the robot's base onto the {place}"),
    ),
    "nearer_one_in_tray": Template(
        with_tray(_nearest),
        ("put the {shape} that is nearer to the {tray} in it", "of the two {shape}s, the nearer goes into the {tray}"),
    ),
    "push_to_zone": Template(
        with_zone(_push(alone=False)),
        ("push the {a} into the {zone}", "slide the {a} onto the {zone}", "shove the {a} over to the {zone}"),
    ),
    "push_past_others": Template(
        with_zone(_push(alone=True)),
        ("push the {a} into the {zone} and leave the rest alone", "without touching others, slide the {a} to the {zone}"),
    ),
    "cube_on_cube": Template(_stack("cube", "cube"), ("stack the {a} on the {b}", "put the {a} on top of the {b}")),
    "cube_on_cylinder": Template(_stack("cube", "cylinder"), ("stack the {a} on the {b}", "balance the {a} on the {b}")),
    "cylinder_on_cube": Template(_stack("cylinder", "cube"), ("stack the {a} on the {b}", "the {b} carries the {a}")),
    "stack_same_colour": Template(
        _stack("cylinder", "cube", True),
        ("put the {a} on the cube of the same colour", "stack the {a} on the cube that matches it"),
    ),
    "stack_other_colour": Template(
        _stack("cube", "cylinder", False),
        ("put the {a} on the cylinder of another colour", "stack the {a} on the cylinder that does not match it"),
    ),
    "place_left": Template(_beside("left"), ("place the {a} to the left of the {b}", "the {a} goes left of the {b}")),
    "place_right": Template(_beside("right"), ("place the {a} to the right of the {b}", "the {a} goes right of the {b}")),
    "place_in_front": Template(_beside("front"), ("place the {a} in front of the {b}", "the {a} goes in front of the {b}")),
    "place_behind": Template(_beside("behind"), ("place the {a} behind the {b}", "hide the {a} behind the {b}")),
    "place_next_to": Template(_next_to, ("place the {a} next to the {b}", "bring the {a} close to the {b}")),
    "cubes_side_by_side": Template(
        _side_by_side("cube"),
        ("place the two cubes side by side", "bring the cubes together", "one cube goes next to the other"),
    ),
    "cylinders_side_by_side": Template(
        _side_by_side("cylinder"), ("place the two cylinders side by side", "bring the cylinders together")
    ),
    "pair_colours": Template(
        _pair_of_colour,
        ("bring the {colour} things together and leave the others", "group the {colour} objects, touch nothing else"),
    ),
    "to_left_edge": Template(
        _to_region("y", -0.27, -0.16), ("move the {a} to the left side of the table", "bring the {a} to the left edge")
    ),
    "to_right_edge": Template(
        _to_region("y", 0.16, 0.27), ("move the {a} to the right side of the table", "bring the {a} to the right edge")
    ),
    "to_the_middle": Template(
        _to_region("y", -0.06, 0.06),
        ("move the {a} to the middle, between left and right", "centre the {a} between left and right"),
    ),
    "move_away": Template(
        _away, ("move the {a} away from the {b}", "take the {a} far from the {b}", "separate the {a} from the {b}")
    ),
    "place_between": Template(
        _between, ("place the {a} between the {b} and the {c}", "the {a} goes midway from the {b} to the {c}")
    ),
}
