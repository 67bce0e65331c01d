"""Instructions of the language-action data, composed of verbs, names, prepositions and spatial references (paper, section 3.2.3).

What an instruction says of a motion is true of it: sides, distances and turns are those of the goals. Left and right are the robot's
own, who looks along x of its base: y is left. The vocabularies are ours; the paper prints two instructions, which are among those here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

COLORS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple", "small", "wooden")

OBJECTS = (
    "apple", "banana", "orange", "lemon", "pear", "peach", "plum", "strawberry", "tomato", "potato", "carrot", "onion",
    "cucumber", "eggplant", "cup", "mug", "glass", "bottle", "can", "bowl", "spoon", "fork", "spatula", "whisk", "sponge",
    "brush", "cloth", "napkin", "marker", "pen", "pencil", "eraser", "stapler", "tape", "scissors", "screwdriver", "wrench",
    "battery", "cube", "block", "ball", "cylinder", "toy car", "toy duck", "dice", "puzzle piece", "domino", "chess piece",
    "key", "coin purse", "remote control", "phone", "mouse", "book", "box", "soap bar", "tube", "jar", "candle", "clamp",
    "bolt", "sugar packet", "juice box", "soda can", "tennis ball", "cereal box", "tuna can", "matchbox",
)  # fmt: skip

CONTAINERS = (
    "container", "bowl", "box", "basket", "tray", "bin", "plate", "drawer", "crate", "pot", "pan", "basin", "dish",
    "cup holder", "tote",
)  # fmt: skip

_PICK = ("Place", "Put", "Set", "Drop", "Lay")
_CARRY = (
    "Pick up {o} and place it {to}",
    "Grab {o} and put it {to}",
    "Take {o} and drop it {to}",
    "Lift {o} and set it down {to}",
)
_MOVE = ("Move", "Bring", "Carry", "Transfer", "Relocate", "Shift")
_SPOTS = ("the target location", "the target position", "the marked spot", "the goal", "the target area", "the marker")
_PUSH = ("Push", "Slide", "Shove", "Nudge", "Push and slide")
_PULL = ("Pull", "Drag", "Draw", "Tug", "Haul")
_TURN = ("Rotate", "Turn", "Spin", "Twist")
_FACE = ("Rotate {o} to face {v}", "Turn {o} toward {v}", "Orient {o} toward {v}", "Make {o} face {v}", "Point {o} at {v}")
_SWAP = (
    "Swap {a} and {b}",
    "Swap {a} with {b}",
    "Exchange {a} and {b}",
    "Exchange the positions of {a} and {b}",
    "Switch the places of {a} and {b}",
    "Interchange {a} and {b}",
    "Let {a} and {b} trade places",
    "Reorder the two objects so that {a} is where {b} is and the other way round",
)

#: A view's name and its direction in the base frame, radians.
VIEWS: dict[str, float] = {
    "the robot": math.pi,
    "the robot base": math.pi,
    "the far side": 0.0,
    "the front": 0.0,
    "the left side": math.pi / 2,
    "the left": math.pi / 2,
    "the right side": -math.pi / 2,
    "the right": -math.pi / 2,
    "the far left corner": math.pi / 4,
    "the far right corner": -math.pi / 4,
}


def name(rng: np.random.Generator, other: str = "") -> str:
    """An object's name with its article, sometimes with a property, and not the other one's."""
    while True:
        noun = _one(rng, OBJECTS)
        if not other.endswith(noun):
            break
    return f"the {_one(rng, COLORS)} {noun}" if rng.random() < 0.35 else f"the {noun}"


def pick_place(rng: np.random.Generator, start: np.ndarray, end: np.ndarray) -> str:
    """Of an object that goes from a place to another."""
    obj, kind = name(rng), rng.random()
    where = f" {side_of(end)}" if rng.random() < 0.3 and side_of(end) else ""
    if kind < 0.5:
        container = _one(rng, CONTAINERS)
        to = f"{_one(rng, ('into', 'in', 'inside') if container not in ('plate', 'tray') else ('on', 'onto'))} the {container}{where}"
    elif kind < 0.8:
        to = f"{_one(rng, ('at', 'on'))} {_one(rng, _SPOTS)}{where}"
        if rng.random() < 0.5:
            return f"{_one(rng, _MOVE)} {obj} {_one(rng, ('to', 'toward'))} {_one(rng, _SPOTS)}{where}"
    else:
        to = _shift(rng, start, end)
        return f"{_one(rng, _MOVE)} {obj} {to}"
    if rng.random() < 0.4:
        return _one(rng, _CARRY).format(o=obj, to=to)
    return f"{_one(rng, _PICK)} {obj} {to}"


def push(rng: np.random.Generator, start: np.ndarray, end: np.ndarray) -> str:
    """Of an object that is pushed away."""
    return _line(rng, _PUSH, start, end, ("forward", "away from the robot", "away"))


def pull(rng: np.random.Generator, start: np.ndarray, end: np.ndarray) -> str:
    """Of an object that is pulled near."""
    return _line(rng, _PULL, start, end, ("toward the robot", "backward", "closer to the robot base", "back"))


def turn_and_move(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, angle: float) -> str:
    """Of an object that is put elsewhere, turned by ``angle`` radians, counter-clockwise seen from above."""
    obj = name(rng)
    to = _shift(rng, start, end) if rng.random() < 0.6 else f"to {_one(rng, _SPOTS)}"
    turned = _angle(rng, angle)
    if rng.random() < 0.5:
        return f"{_one(rng, _TURN)} {obj} {turned} and {_one(rng, _MOVE).lower()} it {to}"
    return f"{_one(rng, _MOVE)} {obj} {to} and {_one(rng, _TURN).lower()} it {turned}"


def turn_to_view(rng: np.random.Generator, view: str) -> str:
    """Of an object that is turned toward a view of :data:`VIEWS`."""
    return _one(rng, _FACE).format(o=name(rng), v=view)


def swap(rng: np.random.Generator) -> str:
    """Of two objects that change places."""
    first = name(rng)
    return _one(rng, _SWAP).format(a=first, b=name(rng, first))


def side_of(place: np.ndarray) -> str:
    """Where a place is as the robot sees it; empty where it is neither left nor right."""
    azimuth = math.atan2(place[1], place[0])
    return "on the left" if azimuth > 0.35 else "on the right" if azimuth < -0.35 else ""


def _line(rng: np.random.Generator, verbs: Sequence[str], start: np.ndarray, end: np.ndarray, ways: Sequence[str]) -> str:
    """A motion along a line whose main direction has names."""
    way = _one(rng, ways)
    across, along = end[1] - start[1], abs(end[0] - start[0])
    if abs(across) > 0.45 * along:
        way += " and to the left" if across > 0 else " and to the right"
    kind = rng.random()
    far = f" by {round(100 * math.dist(start[:2], end[:2]))} {_one(rng, ('cm', 'centimeters'))}" if kind < 0.35 else ""
    goal = f" to {_one(rng, _SPOTS)}" if kind > 0.75 else ""
    return f"{_one(rng, verbs)} {name(rng)} {way}{far}{goal}"


def _shift(rng: np.random.Generator, start: np.ndarray, end: np.ndarray) -> str:
    """A displacement in words, by its larger part."""
    x, y = end[0] - start[0], end[1] - start[1]
    if abs(y) > abs(x):
        return _one(rng, ("to the left", "leftward", "left")) if y > 0 else _one(rng, ("to the right", "rightward", "right"))
    return _one(rng, ("forward", "farther from the robot")) if x > 0 else _one(rng, ("backward", "closer to the robot"))


def _angle(rng: np.random.Generator, angle: float) -> str:
    """A turn in words."""
    degrees = round(abs(math.degrees(angle)))
    amounts = [f"{degrees} degrees", f"by {degrees} degrees"]
    if degrees == 90:
        amounts.append("a quarter turn")
    return f"{_one(rng, amounts)} {'counterclockwise' if angle > 0 else 'clockwise'}"


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
