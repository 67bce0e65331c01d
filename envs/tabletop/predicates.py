"""Predicates that goals of generated tasks are composed of: plain data in, a verdict on one state of the scene out.

Distances are in metres, between the centres of objects as seen from above. An object counts only where it rests and the gripper has let
go of it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from . import layout
from .world import HEIGHT_SLACK, STACK_OFFSET, ObjectState, World

#: What goal data give no other distance for. Two objects that are near each other have at most an object's width of air between them.
NEAR = 0.105
#: An object that is still where it began: a hand that brushes past moves it less.
UNTOUCHED = 0.03
#: Two objects fit on a zone beside each other, and neither with all of its width and room for an error.
ZONE_EDGE = 0.01
#: Offset across the line of a row, or of the two objects that another is between.
ACROSS = 0.03
#: Part of the way between two objects, from its centre to both sides, in which a third one is between them.
BETWEEN = 0.3


def in_tray(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the floor of ``tray``; others may be there too."""
    obj = world.objects[spec["object"]]
    return obj.placed and is_inside(obj, world.places[spec["tray"]])


def in_zone(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the table with its centre over ``zone``, :data:`ZONE_EDGE` from the edge at least, however it got there."""
    obj = world.objects[spec["object"]]
    away = np.abs(obj.position[:2] - world.places[spec["zone"]])
    return bool(_on_table(obj) and away.max() < layout.ZONE_HALF - ZONE_EDGE)


def on(spec: dict[str, Any], world: World) -> bool:
    """``object`` lies on top of ``base``, which may itself be on another."""
    obj, base = world.objects[spec["object"]], world.objects[spec["base"]]
    gap = obj.lowest - (base.lowest + 2 * base.reach)
    return obj.placed and base.placed and _distance(obj, base) < STACK_OFFSET and abs(gap) < HEIGHT_SLACK


def next_to(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the ``side`` of ``reference`` (left, right, front or behind, as the ego view shows them), near it."""
    obj, reference = world.objects[spec["object"]], world.objects[spec["reference"]]
    x, y = (obj.position - reference.position)[:2]
    along, across = {"left": (-y, x), "right": (y, x), "front": (x, y), "behind": (-x, y)}[spec["side"]]
    return bool(_on_table(obj) and _on_table(reference) and 0.045 <= along <= 0.13 and abs(across) < 0.045)


def grouped(spec: dict[str, Any], world: World) -> bool:
    """``objects`` are on the table, and each is reached from any other by hops of at most ``within``."""
    objects = [world.objects[name] for name in spec["objects"]]
    within = spec.get("within", NEAR)
    reached, left = objects[:1], objects[1:]
    while left:
        near = [obj for obj in left if any(_distance(obj, other) <= within for other in reached)]
        if not near:
            return False
        reached = reached + near
        left = [obj for obj in left if not any(obj is other for other in near)]
    return all(_on_table(obj) for obj in objects)


def apart(spec: dict[str, Any], world: World) -> bool:
    """Each two of ``objects`` are at least ``distance`` from each other, on the table."""
    objects = [world.objects[name] for name in spec["objects"]]
    far = all(_distance(one, other) >= spec["distance"] for one, other in combinations(objects, 2))
    return far and all(_on_table(obj) for obj in objects)


def at(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the table within ``within`` of the spot ``x``, ``y``."""
    obj = world.objects[spec["object"]]
    return _on_table(obj) and _from_spot(obj, spec) <= spec["within"]


def region(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the table and its ``axis`` (``x`` or ``y``) is from ``least`` to ``most``."""
    obj = world.objects[spec["object"]]
    number = float(obj.position["xy".index(spec["axis"])])
    return _on_table(obj) and spec["least"] <= number <= spec["most"]


def between(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the table about midway between the two ``objects``."""
    obj = world.objects[spec["object"]]
    begin, end = (world.objects[name].position[:2] for name in spec["objects"])
    way = end - begin
    part = float((obj.position[:2] - begin) @ way / max(float(way @ way), 1e-9))
    across = float(np.linalg.norm(obj.position[:2] - begin - part * way))
    return _on_table(obj) and abs(part - 0.5) <= BETWEEN / 2 and across <= ACROSS


def row(spec: dict[str, Any], world: World) -> bool:
    """``objects`` are on the table in one straight line, neighbours at most ``within`` from each other."""
    objects = [world.objects[name] for name in spec["objects"]]
    spots = np.array([obj.position[:2] for obj in objects])
    begin, end = max(combinations(spots, 2), key=lambda two: float(np.linalg.norm(two[1] - two[0])))
    along = (end - begin) / max(float(np.linalg.norm(end - begin)), 1e-9)
    parts = np.sort((spots - begin) @ along)
    off = np.abs((spots - begin) @ np.array([-along[1], along[0]]))
    straight = off.max() <= ACROSS / 2 and np.diff(parts).max() <= spec["within"]
    return bool(straight and all(_on_table(obj) for obj in objects))


def untouched(spec: dict[str, Any], world: World) -> bool:
    """``object`` is on the table where it began, at the spot ``x``, ``y``."""
    obj = world.objects[spec["object"]]
    return _on_table(obj) and _from_spot(obj, spec) <= UNTOUCHED


#: Kind of a predicate's data to the predicate.
KINDS: dict[str, Callable[[dict[str, Any], World], bool]] = {
    predicate.__name__: predicate
    for predicate in (in_tray, in_zone, on, next_to, grouped, apart, at, region, between, row, untouched)
}


def is_inside(obj: ObjectState, tray: np.ndarray) -> bool:
    """Its centre is within the walls and it is on the tray's floor (or leans on a wall), not on another object."""
    away = np.abs(obj.position[:2] - tray)
    return bool(away.max() < layout.TRAY_HALF and obj.lowest < layout.TRAY_FLOOR + HEIGHT_SLACK)


def _on_table(obj: ObjectState) -> bool:
    return obj.placed and obj.lowest < HEIGHT_SLACK


def _distance(one: ObjectState, other: ObjectState) -> float:
    return float(np.linalg.norm((one.position - other.position)[:2]))


def _from_spot(obj: ObjectState, spec: dict[str, Any]) -> float:
    return float(np.linalg.norm(obj.position[:2] - (spec["x"], spec["y"])))
