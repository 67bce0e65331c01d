"""What generated tasks are composed of: predicates and skills as data, and what suits a placement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .sampler import BESIDE_DISTANCE, LANE, pushable
from .scenes import Layout

#: From the centre of a tray or zone to each of two objects in it: along ``x``, so that the fingers open clear of the walls.
HALVES = ((0.031, 0.0), (-0.031, 0.0))

Data = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What a task is in one placement.

    Attributes:
        goal: The success predicate (envs/tabletop/goals.py).
        program: The skills that reach it, in order.
        words: What the templates' names stand for.
    """

    goal: Data
    program: list[Data]
    words: dict[str, str] = field(default_factory=dict)


Maker = Callable[[Layout, np.random.Generator], "Made | None"]
#: Of a task that needs a tray or a zone, which is named.
PlaceMaker = Callable[[Layout, np.random.Generator, str], "Made | None"]


@dataclass(frozen=True)
class Template:
    """One task.

    Attributes:
        make: What it is in a placement.
        words: Wordings of its instruction.
        moves: Objects that are moved; a task of more than one is long-horizon.
    """

    make: Maker
    words: tuple[str, ...]
    moves: int = 1


def shape_of(name: str) -> str:
    return name.split()[1]


def colour_of(name: str) -> str:
    return name.split(maxsplit=1)[0]


def of_shape(scene: Layout, shape: str) -> list[str]:
    return [name for name in scene.names if shape_of(name) == shape]


def of_colour(scene: Layout, colour: str) -> list[str]:
    return [name for name in scene.names if colour_of(name) == colour]


def shuffled(rng: np.random.Generator, choices: Sequence[Any]) -> list[Any]:
    return [choices[index] for index in rng.permutation(len(choices))]


def all_of(*parts: Data) -> Data:
    return {"kind": "all", "parts": list(parts)}


def one_after_the_other(*parts: Data) -> Data:
    """These in this order; it is the outermost part of a goal."""
    return {"kind": "ordered", "parts": list(parts)}


def inside(kind: str, obj: str, place: str) -> Data:
    """The object is in the tray or on the zone, which is what ``kind`` says, alone or not."""
    return {"kind": f"in_{kind}", "object": obj, kind: place}


def on_top(obj: str, base: str) -> Data:
    return {"kind": "on", "object": obj, "base": base}


def still(scene: Layout, *names: str) -> list[Data]:
    """These stay where they began."""
    return [
        {"kind": "untouched", "object": name, "x": float(scene.spots[name][0]), "y": float(scene.spots[name][1])}
        for name in names
    ]


def others(scene: Layout, *names: str) -> list[str]:
    return [name for name in scene.names if name not in names]


def carry(kind: str, obj: str, place: str = "", offset: Sequence[float] | np.ndarray = (0.0, 0.0)) -> Data:
    """The skill that carries an object to its place, at an offset in m from the place's centre."""
    step: Data = {"kind": kind, "thing": obj, "place": place}
    return step if not any(offset) else {**step, "offset": [round(float(number), 4) for number in offset]}


def bring(kind: str, obj: str, place: str) -> Data:
    """The skill that carries an object to the centre of a tray or zone."""
    return carry("inside" if kind == "tray" else kind, obj, place)


def to_spot(obj: str, spot: np.ndarray) -> Data:
    """The skill that carries an object to a spot of the table."""
    return carry("spot", obj, "", spot)


def with_tray(make: PlaceMaker) -> Maker:
    """A maker that needs a tray gets one of the scene's."""
    return lambda scene, rng: make(scene, rng, shuffled(rng, scene.trays)[0]) if scene.trays else None


def with_zone(make: PlaceMaker) -> Maker:
    """A maker that needs a zone gets one of the scene's."""
    return lambda scene, rng: make(scene, rng, shuffled(rng, scene.zones)[0]) if scene.zones else None


#: Side of another object to the way there in the world frame; sides are those of the ego view.
SIDES = {
    "left": (0.0, -BESIDE_DISTANCE),
    "right": (0.0, BESIDE_DISTANCE),
    "front": (BESIDE_DISTANCE, 0.0),
    "behind": (-BESIDE_DISTANCE, 0.0),
}


def can_push(scene: Layout, obj: str, zone: str) -> bool:
    """Whether an object can be pushed into a zone, clear of all others and of the walls of trays."""
    obstacles = [(scene.spots[name], LANE) for name in others(scene, obj)]
    walls = [(scene.spots[name], LANE + 0.06) for name in scene.trays]
    return pushable(scene.spots[obj], scene.spots[zone], obstacles + walls)


def pushed(obj: str, zone: str) -> Data:
    """The object is on the zone and was never lifted."""
    return {"kind": "pushed", "object": obj, "zone": zone}


def beside_it(scene: Layout, rng: np.random.Generator, obj: str, other: str) -> Data | None:
    """The skill that puts an object next to another, on a side where there is room."""
    for side in shuffled(rng, list(SIDES.values())):
        spot = scene.spots[other] + side
        if scene.free(spot, (obj, other)) and np.linalg.norm(scene.spots[obj] - scene.spots[other]) > 0.14:
            return carry("near", obj, other, side)
    return None


def grouped(*names: str) -> Data:
    return {"kind": "grouped", "objects": list(names)}


def free_spot(scene: Layout, rng: np.random.Generator, obj: str, **wanted: tuple[float, float]) -> np.ndarray | None:
    """A free spot within ranges of ``x`` and ``y``, away from where the object is."""
    for _ in range(60):
        spot = np.round(rng.uniform((-0.16, -0.23), (0.10, 0.23)), 3)
        if any(not least <= spot["xy".index(axis)] <= most for axis, (least, most) in wanted.items()):
            continue
        if scene.free(spot, (obj,), 0.12) and np.linalg.norm(spot - scene.spots[obj]) > 0.08:
            return spot
    return None
