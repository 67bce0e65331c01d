"""Scenes to be looked at, not played: more variety of what is where than the tasks have.

The tasks' scenes always show two cubes and two cylinders in the same two colours, so "how many cubes" has one answer. Here one to four
objects have any colours but the pair that training never shows, some of them lie on a zone, and there are none to two trays and zones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...envs.tabletop import layout
from .sampler import HELD_OUT, HIGH, LOW, at

#: Where objects lie that the scene is not to show, in m: on the floor, so far behind the camera that the hand's camera sees less than a
#: pixel of them when it looks up. The compiled scene holds a fixed number.
UNSEEN = 50.0

#: Least distances of centres, in m, and from what: a zone may lie under an object, nothing else is overlapped.
_APART = {
    frozenset(("object",)): 0.065,
    frozenset(("object", "tray")): 0.125,
    frozenset(("object", "zone")): 0.0,
    frozenset(("tray",)): 0.19,
    frozenset(("tray", "zone")): 0.18,
    frozenset(("zone",)): 0.17,
}

#: Places that are tried for an object; one that finds none is left out.
_TRIES = 30


def assorted(rng: np.random.Generator) -> dict[str, Any]:
    """A payload of the suite's adapter. Nothing is its goal."""
    taken: list[tuple[str, np.ndarray]] = []
    scene: dict[str, Any] = {"trays": [], "zones": [], "objects": [], "instruction": "look at the table"}
    for kind, colours in (("tray", layout.TRAY_COLOURS), ("zone", layout.ZONE_COLOURS)):
        for colour in rng.permutation(list(colours))[: rng.integers(layout.CONTAINERS + 1)]:
            spot = _spot(rng, kind, taken)
            if spot is not None:
                scene[f"{kind}s"].append({"name": f"{colour} {kind}", "colour": str(colour), **at(spot)})
    shapes = [shape for shape, spec in layout.SHAPES.items() for _ in range(spec.count)]
    shown = set(rng.permutation(len(shapes))[: rng.integers(1, len(shapes) + 1)].tolist())
    for index, shape in enumerate(shapes):
        colour = str(rng.choice([colour for colour in layout.OBJECT_COLOURS if (colour, shape) != HELD_OUT]))
        spot = _spot(rng, "object", taken) if index in shown else None
        place = at(np.array([UNSEEN, index]) if spot is None else spot)
        yaw = round(float(rng.uniform(-0.78, 0.78)), 4)
        # Two objects may look the same; the number in the name keeps them apart.
        scene["objects"].append({"name": f"{colour} {shape} {index}", "shape": shape, "colour": colour, **place, "yaw": yaw})
    scene["goal"] = {"kind": "any", "parts": []}
    return scene


def _spot(rng: np.random.Generator, kind: str, taken: list[tuple[str, np.ndarray]]) -> np.ndarray | None:
    """A free place on the table, which is then taken; ``None`` where none was found."""
    for _ in range(_TRIES):
        spot = np.round(rng.uniform(LOW, HIGH), 4)
        if all(np.linalg.norm(spot - other) >= _APART[frozenset((kind, its))] for its, other in taken):
            taken.append((kind, spot))
            return spot
    return None
