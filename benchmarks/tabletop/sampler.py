"""Samples the initial states of the tabletop suite: scenes, instructions and goals from an explicit seed.

Every scene holds two cubes and two cylinders in the same two colours, so each object has a twin of its shape in the other colour and a
twin of its colour in the other shape; where a container is named there are two in different colours. No word of an instruction can
be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ...envs.tabletop import layout

#: Seeds every initial state together with the task's number and the initial state; another value is another suite.
SEED = 20250

#: Where centres of objects may lie on the table: seen by the ego camera, and reached by a gripper that points straight down.
LOW = np.array([-0.18, -0.25])
HIGH = np.array([0.12, 0.25])
#: The robot's base (robosuite/models/robots/manipulators/panda_robot.py, ``base_xpos_offset``) and how far from it we go.
BASE = np.array([-0.56, 0.0])
REACH = 0.71

#: Air that the fingers need: an open gripper ends 6 cm from an object's centre, the next object begins 3.2 cm from its own.
OBJECT_GAP = 0.115
#: From an object's centre to a tray's wall.
TRAY_GAP = 0.065
#: From the spot beside the reference to other objects, and to where the object comes from.
SPOT_GAP = 0.10
TRAVEL = 0.14
#: Distance at which an object is to be set beside another: the mean of what the goal accepts.
BESIDE_DISTANCE = 0.085
#: A push goes this far, along a lane of this half width that begins this far behind the object.
PUSH = (0.16, 0.25)
LANE = 0.09
RUN_UP = 0.09

#: Colour and shape that scenes for training never pair, so that the committed initial states, two of five of which show the pair, tell
#: whether a policy composes what it learned of the colour with what it learned of the shape.
HELD_OUT = ("purple", "cylinder")

Scene = dict[str, Any]
_Goal = tuple[str, dict[str, Any]]


def sample(task: str, initial_state: int, training: bool = False) -> Scene:
    """The scene of an initial state, the same for ever: ``objects``, ``trays``, ``zones``, ``instruction`` and ``goal``, as plain data.

    For training, what is :data:`HELD_OUT` gets a colour instead that the scene has not; nothing else differs.
    """
    make, trays, zones = MAKERS[task]
    rng = np.random.default_rng([SEED, list(MAKERS).index(task), initial_state])
    *colours, spare = _sample(rng, list(layout.OBJECT_COLOURS), 3)
    pairs = [
        (spare if training and (colour, shape) == HELD_OUT else colour, shape) for shape in layout.SHAPES for colour in colours
    ]
    names = [f"{colour} {shape}" for colour, shape in pairs]
    tray_names = [f"{colour} tray" for colour in _sample(rng, list(layout.TRAY_COLOURS), trays)]
    zone_names = [f"{colour} zone" for colour in _sample(rng, list(layout.ZONE_COLOURS), zones)]
    instruction, goal = make(rng, names, tray_names, zone_names)
    placed = [*names, *tray_names, *zone_names]
    while True:
        spots = dict(zip(placed, np.round(rng.uniform(LOW, HIGH, (len(placed), 2)), 4), strict=True))
        if fits(spots, names, tray_names, zone_names) and _suits(goal, spots, names):
            break
    yaws = {name: round(rng.uniform(-0.78, 0.78), 4) for name in names}
    return {"instruction": instruction, **as_data(spots, yaws, tray_names, zone_names), "goal": goal}


def as_data(
    spots: Mapping[str, np.ndarray], yaws: Mapping[str, float], trays: Sequence[str], zones: Sequence[str]
) -> dict[str, Any]:
    """``objects``, ``trays`` and ``zones`` as plain data; the objects are those with a yaw. Names begin with a colour."""
    return {
        "objects": [
            {"name": name, "shape": name.split()[1], "colour": name.split()[0], **at(spots[name]), "yaw": yaw}
            for name, yaw in yaws.items()
        ],
        "trays": [{"name": name, "colour": name.split()[0], **at(spots[name])} for name in trays],
        "zones": [{"name": name, "colour": name.split()[0], **at(spots[name])} for name in zones],
    }


def _pick_into(rng: np.random.Generator, names: list[str], trays: list[str], zones: list[str]) -> _Goal:
    (obj,), (tray,) = _sample(rng, names, 1), _sample(rng, trays, 1)
    return f"put the {obj} in the {tray}", {"kind": "inside", "object": obj, "tray": tray}


def _place_beside(rng: np.random.Generator, names: list[str], trays: list[str], zones: list[str]) -> _Goal:
    obj, reference = _sample(rng, names, 2)
    (side,) = _sample(rng, ["left", "right"], 1)
    goal = {"kind": "beside", "object": obj, "reference": reference, "side": side}
    return f"place the {obj} to the {side} of the {reference}", goal


def _stack(rng: np.random.Generator, names: list[str], trays: list[str], zones: list[str]) -> _Goal:
    obj, base = _sample(rng, names, 2)
    return f"stack the {obj} on the {base}", {"kind": "stacked", "object": obj, "base": base}


def _push_to(rng: np.random.Generator, names: list[str], trays: list[str], zones: list[str]) -> _Goal:
    (obj,), (zone,) = _sample(rng, names, 1), _sample(rng, zones, 1)
    return f"push the {obj} into the {zone}", {"kind": "pushed", "object": obj, "zone": zone}


def _two_step(rng: np.random.Generator, names: list[str], trays: list[str], zones: list[str]) -> _Goal:
    objects, containers = _sample(rng, names, 2), _sample(rng, trays, 2)
    parts = [{"kind": "inside", "object": obj, "tray": tray} for obj, tray in zip(objects, containers, strict=True)]
    first, second = (f"put the {part['object']} in the {part['tray']}" for part in parts)
    return f"first {first}, then {second}", {"kind": "ordered", "parts": parts}


#: Task to the maker of its goal, and the trays and zones of its scenes; the order is that of tables.
MAKERS: dict[str, tuple[Callable[..., _Goal], int, int]] = {
    "pick_into": (_pick_into, 2, 0),
    "place_beside": (_place_beside, 0, 0),
    "stack": (_stack, 0, 0),
    "push_to": (_push_to, 0, 2),
    "two_step": (_two_step, 2, 0),
}


def _sample(rng: np.random.Generator, choices: list[str], count: int) -> list[str]:
    return [choices[index] for index in rng.permutation(len(choices))[:count]]


def at(spot: np.ndarray) -> dict[str, float]:
    return {"x": float(spot[0]), "y": float(spot[1])}


def reached(point: np.ndarray) -> bool:
    """Whether the hand gets to a point, and behind what is there."""
    return bool(np.linalg.norm(point - BASE) < REACH and point[0] > LOW[0] - RUN_UP)


def on_table(spot: np.ndarray) -> bool:
    """Whether an object's centre may lie at a spot, and the hand gets there."""
    return bool(np.all(spot > LOW) and np.all(spot < HIGH)) and reached(spot)


def _beyond_square(point: np.ndarray, centre: np.ndarray, half: float) -> float:
    """Distance from a point to an upright square."""
    return float(np.linalg.norm(np.maximum(np.abs(point - centre) - half, 0.0)))


def fits(spots: dict[str, np.ndarray], names: list[str], trays: list[str], zones: list[str]) -> bool:
    """Whether all is in reach and nothing is in the way of anything."""
    if not all(reached(spot) for spot in spots.values()):
        return False
    if any(np.linalg.norm(spots[a] - spots[b]) < OBJECT_GAP for a, b in combinations(names, 2)):
        return False
    for half, gap, places in ((layout.TRAY_OUTER, TRAY_GAP, trays), (layout.ZONE_HALF, 0.035, zones)):
        if any(np.abs(spots[a] - spots[b]).max() < 2 * half + 0.02 for a, b in combinations(places, 2)):
            return False
        if any(_beyond_square(spots[name], spots[place], half) < gap for name in names for place in places):
            return False
    return True


def _suits(goal: dict[str, Any], spots: dict[str, np.ndarray], names: list[str]) -> bool:
    """Whether the goal can be reached from here, and is not nearly reached already."""
    if goal["kind"] == "beside":
        spot = spots[goal["reference"]] + np.array([0.0, BESIDE_DISTANCE * (-1 if goal["side"] == "left" else 1)])
        others = [name for name in names if name not in (goal["object"], goal["reference"])]
        free = all(np.linalg.norm(spots[name] - spot) > SPOT_GAP for name in others)
        return on_table(spot) and free and bool(np.linalg.norm(spots[goal["object"]] - spot) > TRAVEL)
    if goal["kind"] == "pushed":
        obstacles = [(spots[name], LANE) for name in names if name != goal["object"]]
        return pushable(spots[goal["object"]], spots[goal["zone"]], obstacles)
    return True


def pushable(begin: np.ndarray, end: np.ndarray, obstacles: Iterable[tuple[np.ndarray, float]]) -> bool:
    """Whether an object can be pushed from place to place: neither too near nor too far, so far from each of the obstacles' centres."""
    length = float(np.linalg.norm(end - begin))
    if not PUSH[0] < length < PUSH[1]:
        return False
    behind = begin - (end - begin) / length * RUN_UP
    return reached(behind) and all(_from_lane(centre, behind, end) > gap for centre, gap in obstacles)


def _from_lane(point: np.ndarray, begin: np.ndarray, end: np.ndarray) -> float:
    """Distance from a point to the line between two others."""
    along = np.clip((point - begin) @ (end - begin) / ((end - begin) @ (end - begin)), 0.0, 1.0)
    return float(np.linalg.norm(point - begin - along * (end - begin)))
