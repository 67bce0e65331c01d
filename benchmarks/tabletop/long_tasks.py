"""Generated tasks of a longer horizon: several objects are moved, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from .scenes import Layout
from .task_parts import (
    HALVES,
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
    one_after_the_other,
    others,
    pushed,
    shape_of,
    shuffled,
    still,
    to_spot,
    with_tray,
    with_zone,
)


def _pair_in(place: str, pick: Callable[[Layout, np.random.Generator], list[str] | None]) -> PlaceMaker:
    """Two objects into the halves of one tray or zone."""

    def make(scene: Layout, rng: np.random.Generator, where: str) -> Made | None:
        objects = pick(scene, rng)
        if not objects:
            return None
        goal = all_of(*(inside(place, obj, where) for obj in objects), *still(scene, *others(scene, *objects)))
        steps = [carry(place, obj, where, half) for obj, half in zip(objects, HALVES, strict=True)]
        return Made(goal, steps, {"where": where, "colour": colour_of(objects[0]), "shape": shape_of(objects[0])})

    return make


def _two_of_colour(scene: Layout, rng: np.random.Generator) -> list[str] | None:
    pairs = [of_colour(scene, colour) for colour in sorted({colour_of(name) for name in scene.names})]
    pairs = [pair for pair in pairs if len(pair) == 2]
    return shuffled(rng, shuffled(rng, pairs)[0]) if pairs else None


def _two_of_shape(scene: Layout, rng: np.random.Generator) -> list[str]:
    return shuffled(rng, of_shape(scene, shuffled(rng, ["cube", "cylinder"])[0]))


def _one_each(kind: str) -> Maker:
    """One cube into each of two trays or zones."""

    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        places = scene.trays if kind == "tray" else scene.zones
        if len(places) < 2:
            return None
        shape = shuffled(rng, ["cube", "cylinder"])[0]
        objects, places = shuffled(rng, of_shape(scene, shape)), shuffled(rng, places)
        one, two = objects
        either = [all_of(inside(kind, one, a), inside(kind, two, b)) for a, b in (places, places[::-1])]
        steps = [bring(kind, obj, place) for obj, place in zip(objects, places, strict=True)]
        return Made({"kind": "any", "parts": either}, steps, {"shape": shape})

    return make


def _sorted_into_trays(key: Callable[[str], str]) -> Maker:
    """All four objects into two trays, by shape or by colour."""

    def make(scene: Layout, rng: np.random.Generator) -> Made | None:
        kinds = sorted({key(name) for name in scene.names})
        if len(scene.trays) < 2 or len(kinds) != 2:
            return None
        places = dict(zip(shuffled(rng, kinds), scene.trays, strict=True))
        steps, parts = [], []
        for kind, tray in places.items():
            for obj, half in zip(shuffled(rng, [n for n in scene.names if key(n) == kind]), HALVES, strict=True):
                steps.append(carry("tray", obj, tray, half))
                parts.append(inside("tray", obj, tray))
        first, second = places
        words = {"first": first, "second": second, "a": places[first], "b": places[second]}
        return Made(all_of(*parts), steps, words)

    return make


def _group_and_leave(scene: Layout, rng: np.random.Generator) -> Made | None:
    """Three objects together, the fourth stays by itself."""
    for left in shuffled(rng, scene.names):
        one, two, three = shuffled(rng, others(scene, left))
        for ways in shuffled(rng, [("left", "right"), ("front", "behind"), ("left", "front"), ("right", "behind")]):
            spots = [scene.spots[one] + SIDES[way] for way in ways]
            if not all(scene.free(spot, (one, two, three)) for spot in spots):
                continue
            if any(np.linalg.norm(scene.spots[name] - spot) < 0.09 for name in (two, three) for spot in spots):
                continue
            if min(np.linalg.norm(scene.spots[left] - spot) for spot in (*spots, scene.spots[one])) < 0.15:
                continue
            goal = all_of(grouped(one, two, three), *still(scene, left))
            steps = [carry("near", name, one, SIDES[way]) for name, way in zip((two, three), ways, strict=True)]
            return Made(goal, steps, {"left": left})
    return None


def _tower(scene: Layout, rng: np.random.Generator) -> Made | None:
    cubes, cylinders = of_shape(scene, "cube"), of_shape(scene, "cylinder")
    bottom, middle = shuffled(rng, cubes)
    top = shuffled(rng, cylinders)[0]
    goal = all_of(on_top(middle, bottom), on_top(top, middle))
    return Made(goal, [carry("on", middle, bottom), carry("on", top, middle)], {"a": bottom, "b": middle, "c": top})


def _two_stacks(scene: Layout, rng: np.random.Generator) -> Made | None:
    cubes, cylinders = shuffled(rng, of_shape(scene, "cube")), shuffled(rng, of_shape(scene, "cylinder"))
    (a, b), (c, d) = cubes, cylinders
    goal = {"kind": "any", "parts": [all_of(on_top(a, c), on_top(b, d)), all_of(on_top(a, d), on_top(b, c))]}
    return Made(goal, [carry("on", a, c), carry("on", b, d)], {})


def _matching_stacks(scene: Layout, rng: np.random.Generator) -> Made | None:
    pairs = [(a, b) for a, b in permutations(scene.names, 2) if shape_of(a) == "cube" and colour_of(a) == colour_of(b)]
    if len(pairs) != 2:
        return None
    return Made(all_of(*(on_top(*pair) for pair in pairs)), [carry("on", *pair) for pair in shuffled(rng, pairs)], {})


def _stack_then_tray(scene: Layout, rng: np.random.Generator, tray: str) -> Made | None:
    cube = shuffled(rng, of_shape(scene, "cube"))[0]
    cylinder, other = shuffled(rng, of_shape(scene, "cylinder"))
    goal = one_after_the_other(on_top(cube, cylinder), inside("tray", other, tray))
    steps = [carry("on", cube, cylinder), bring("tray", other, tray)]
    return Made(goal, steps, {"a": cube, "b": cylinder, "tray": tray})


def _tray_then_push(scene: Layout, rng: np.random.Generator) -> Made | None:
    if not (scene.trays and scene.zones):
        return None
    tray, zone = scene.trays[0], scene.zones[0]
    for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
        if can_push(scene, obj, zone):
            goal = one_after_the_other(inside("tray", other, tray), pushed(obj, zone))
            return Made(goal, [bring("tray", other, tray), carry("pushed", obj, zone)], {"a": other, "b": obj})
    return None


def _push_then_stack(scene: Layout, rng: np.random.Generator, zone: str) -> Made | None:
    for obj, other in shuffled(rng, list(permutations(scene.names, 2))):
        if can_push(scene, obj, zone) and shape_of(obj) == "cube":
            goal = all_of(pushed(obj, zone), on_top(other, obj))
            steps = [carry("pushed", obj, zone), carry("on", other, obj)]
            return Made(goal, steps, {"a": obj, "b": other, "zone": zone})
    return None


def _near_then_stack(scene: Layout, rng: np.random.Generator) -> Made | None:
    for obj, other, top in shuffled(rng, list(permutations(scene.names, 3))):
        step = beside_it(scene, rng, obj, other)
        if step and shape_of(obj) == "cube":
            steps = [step, carry("on", top, obj)]
            return Made(all_of(grouped(obj, other), on_top(top, obj)), steps, {"a": obj, "b": other, "c": top})
    return None


def _swap(scene: Layout, rng: np.random.Generator) -> Made | None:
    one, two = shuffled(rng, scene.names)[:2]
    if np.linalg.norm(scene.spots[one] - scene.spots[two]) < 0.13:
        return None
    spare = free_spot(scene, rng, one)
    if spare is None:
        return None
    goal = all_of(*(
        {"kind": "at", "object": a, "x": float(scene.spots[b][0]), "y": float(scene.spots[b][1]), "within": 0.03}
        for a, b in ((one, two), (two, one))
    ))  # fmt: skip
    steps = [to_spot(one, spare), to_spot(two, scene.spots[one]), to_spot(one, scene.spots[two])]
    return Made(goal, steps, {"a": one, "b": two})


def _row(scene: Layout, rng: np.random.Generator) -> Made | None:
    """Three objects in a line through the first."""
    for one, two, three in shuffled(rng, list(permutations(scene.names, 3))):
        for way in (np.array([0.0, 0.1]), np.array([0.1, 0.0])):
            spots = [scene.spots[one] + way, scene.spots[one] - way]
            free = all(scene.free(spot, (one, two, three)) for spot in spots)
            if free and all(np.linalg.norm(scene.spots[name] - spot) > 0.1 for name in (two, three) for spot in spots):
                goal = {"kind": "row", "objects": [one, two, three], "within": 0.13}
                steps = [carry("near", two, one, way), carry("near", three, one, -way)]
                return Made(goal, steps, {"a": one, "b": two, "c": three})
    return None


def _to_both_sides(scene: Layout, rng: np.random.Generator) -> Made | None:
    """One object to the left, one to the right of a third."""
    for one, two, three in shuffled(rng, list(permutations(scene.names, 3))):
        spots = [scene.spots[one] + SIDES[side] for side in ("left", "right")]
        free = all(scene.free(spot, (one, two, three)) for spot in spots)
        if free and all(np.linalg.norm(scene.spots[name] - spot) > 0.1 for name in (two, three) for spot in spots):
            goal = all_of(*(
                {"kind": "next_to", "object": name, "reference": one, "side": side}
                for name, side in ((two, "left"), (three, "right"))
            ))  # fmt: skip
            steps = [carry("near", two, one, SIDES["left"]), carry("near", three, one, SIDES["right"])]
            return Made(goal, steps, {"a": two, "b": three, "c": one})
    return None


#: Task to what it is; the order is that of tables, and seeds what is sampled.
LONG: dict[str, Template] = {
    "colour_in_tray": Template(
        with_tray(_pair_in("tray", _two_of_colour)),
        ("put both {colour} things in the {where}", "everything {colour} goes into the {where}"),
        2,
    ),
    "shape_in_tray": Template(
        with_tray(_pair_in("tray", _two_of_shape)),
        ("put both {shape}s in the {where}", "clear the {shape}s into the {where}"),
        2,
    ),
    "shape_on_zone": Template(
        with_zone(_pair_in("zone", _two_of_shape)),
        ("gather the {shape}s on the {where}", "both {shape}s go onto the {where}"),
        2,
    ),
    "one_in_each_tray": Template(_one_each("tray"), ("put a {shape} in each tray", "give each tray one {shape}"), 2),
    "one_on_each_zone": Template(_one_each("zone"), ("put a {shape} on each zone", "each zone gets one {shape}"), 2),
    "group_and_leave": Template(
        _group_and_leave,
        ("group the things together and leave the {left} by itself", "gather everything but the {left} in one place"),
        2,
    ),
    "row_of_three": Template(_row, ("line up the {a}, the {b} and the {c}", "make a row of the {b}, the {a} and the {c}"), 2),
    "to_both_sides": Template(
        _to_both_sides,
        (
            "place the {a} to the left and the {b} to the right of the {c}",
            "the {c} gets the {a} on its left and the {b} on its right",
        ),
        2,
    ),
    "tower_of_three": Template(
        _tower, ("build a tower: the {b} on the {a}, the {c} on top", "stack the {b} on the {a}, then the {c} on the {b}"), 2
    ),
    "two_stacks": Template(_two_stacks, ("stack each cube on a cylinder", "build two stacks, cubes on top of cylinders"), 2),
    "matching_stacks": Template(
        _matching_stacks,
        ("stack each cube on the cylinder of its colour", "pair cubes and cylinders by colour, cubes on top"),
        2,
    ),
    "stack_then_tray": Template(
        with_tray(_stack_then_tray),
        (
            "stack the {a} on the {b}, then put the other cylinder in the {tray}",
            "first the {a} onto the {b}, then the other cylinder into the {tray}",
        ),
        2,
    ),
    "tray_then_push": Template(
        _tray_then_push,
        (
            "put the {a} in the tray, then push the {b} into the zone",
            "first the {a} goes into the tray, then slide the {b} to the zone",
        ),
        2,
    ),
    "push_then_stack": Template(
        with_zone(_push_then_stack),
        ("push the {a} into the {zone} and stack the {b} on it", "slide the {a} onto the {zone}, then set the {b} on top"),
        2,
    ),
    "near_then_stack": Template(
        _near_then_stack,
        (
            "place the {a} next to the {b} and stack the {c} on the {a}",
            "the {a} goes beside the {b}, and the {c} on top of the {a}",
        ),
        2,
    ),
    "swap": Template(_swap, ("swap the {a} and the {b}", "let the {a} and the {b} change places"), 3),
    "sort_by_shape": Template(
        _sorted_into_trays(shape_of),
        (
            "put the {first}s in the {a} and the {second}s in the {b}",
            "sort by shape: {first}s into the {a}, {second}s into the {b}",
        ),
        4,
    ),
    "sort_by_colour": Template(
        _sorted_into_trays(colour_of),
        (
            "put the {first} things in the {a} and the {second} things in the {b}",
            "sort by colour: {first} into the {a}, {second} into the {b}",
        ),
        4,
    ),
}
