"""The six families of motions (paper, section 3.2.3): what each one's steps are, and where an instance of it takes place.

A motion is a row of **strokes**, each a polyline of the tool through ``K`` vertices that is followed exactly: down to an object, along
a push, up again. The arm goes to a stroke's first vertex by any way that touches nothing. The gripper opens and closes at vertices. All
instances of a template have the same steps, so many are planned at once; places, heights, turns, tilts, objects and words are sampled.

Ranges of sampled lengths are ours; the paper says what is random ("positions, orientations, and inter-pose distances"), not how much.

Shapes: ``S`` strokes, ``K`` vertices of each, ``O`` objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch

from . import words
from .arms import Arm
from .collision import OBJECT
from .kinematics import Chain

Template: TypeAlias = Literal["pick_place", "push", "pull", "rotate_reposition", "rotate_view", "swap"]

#: The six, in the paper's order.
TEMPLATES: tuple[Template, ...] = get_args(Template)

#: Largest number of obstacles, and of objects that are handled.
OBSTACLES, OBJECTS = 3, 2

#: Half the angle of the sector before the base in which goals lie.
_SECTOR = math.radians(65)

#: Free room around a goal that no obstacle takes, so that a gripper of 2F-85's width comes down there.
_ROOM = 0.14


#: Times that places are sampled until they suit.
_TRIES = 50


@dataclass(frozen=True)
class Steps:
    """What happens in each instance of a template.

    Attributes:
        gripper: ``[S][K]``: how far the gripper is open when the tool leaves a vertex.
        carried: ``[S][K]``: the object in the fingers when the tool leaves a vertex; -1 for none.
        begin: How far the gripper is open at first.
    """

    gripper: tuple[tuple[float, ...], ...]
    carried: tuple[tuple[int, ...], ...]
    begin: float = 1.0


@dataclass(frozen=True, eq=False)
class Instance:
    """A motion that is to be planned.

    Attributes:
        positions: ``[S, K, 3]`` of the tool in the base frame.
        yaws: ``[S, K]``: turn of the tool about the vertical.
        tilts: ``[S, K, 2]``: rotation vector about the horizontal axes that tilts the tool from pointing down.
        objects: ``[2 S, O, 9]``: obstacles and objects while the arm goes to each stroke and while it follows it.
        radii: ``[2]``: of the spheres that are handled.
        instruction: In words.
    """

    positions: np.ndarray
    yaws: np.ndarray
    tilts: np.ndarray
    objects: np.ndarray
    radii: np.ndarray
    instruction: str


_PICK, _PLACE = (1.0, 0.0, 0.0), (0.0, 1.0, 1.0)


def _handling(objects: tuple[int, ...]) -> Steps:
    """Picks and places of objects in turn."""
    gripper = tuple(stroke for _ in objects for stroke in (_PICK, _PLACE))
    carried = tuple(stroke for obj in objects for stroke in ((-1, obj, obj), (obj, -1, -1)))
    return Steps(gripper, carried)


STEPS: dict[Template, Steps] = {
    "pick_place": _handling((0,)),
    "push": Steps(((0.0, 0.0, 0.0, 0.0),), ((-1, -1, -1, -1),), begin=0.0),
    "pull": Steps(((1.0, 0.0, 1.0, 1.0),), ((-1, 0, -1, -1),)),
    "rotate_reposition": _handling((0,)),
    "rotate_view": Steps(((1.0, 0.0, 0.0, 0.0, 1.0, 1.0),), ((-1, 0, 0, 0, -1, -1),)),
    "swap": _handling((0, 1, 0)),
}


@dataclass
class _Draft:
    """An instance while it is sampled."""

    arm: Arm
    rng: np.random.Generator
    strokes: list[list[tuple[np.ndarray, float]]] = field(default_factory=list)
    tilt: np.ndarray = field(default_factory=lambda: np.zeros(2))
    radii: np.ndarray = field(default_factory=lambda: np.zeros(OBJECTS))
    places: list[np.ndarray | None] = field(default_factory=lambda: [None] * OBJECTS)
    scenes: list[list[np.ndarray | None]] = field(default_factory=list)

    def handle(self, moved: int, to: np.ndarray, yaws: tuple[float, float], lift: float) -> None:
        """Pick an object up and place it elsewhere."""
        at = self.places[moved]
        assert at is not None
        for place, yaw in ((at, yaws[0]), (to, yaws[1])):
            self.stroke(moved, (raised(place, lift), yaw), (place, yaw), (raised(place, lift), yaw))
        self.places[moved] = to

    def stroke(self, moved: int, *vertices: tuple[np.ndarray, float]) -> None:
        """The tool goes through places with turns; the object that it handles is an obstacle until then."""
        self.scenes.append(list(self.places))
        self.places[moved] = None
        self.scenes.append(list(self.places))
        self.strokes.append(list(vertices))

    def yaw_at(self, place: np.ndarray) -> float:
        """A turn of the tool at a place: within 75 degrees of what the arm's own direction gives, as two fingers need no more."""
        return math.atan2(place[1], place[0]) + self.rng.uniform(-1, 1) * math.radians(75)


def raised(place: np.ndarray, by: float) -> np.ndarray:
    return place + np.array((0.0, 0.0, by))


def sample(arm: Arm, template: Template, rng: np.random.Generator) -> Instance:
    """An instance of a template for an arm, all of it from ``rng``."""
    draft = _Draft(arm, rng)
    draft.radii = rng.uniform(0.018, 0.035, OBJECTS)
    draft.tilt = np.clip(rng.normal(0, math.radians(7), 2), -math.radians(18), math.radians(18))
    instruction = _SAMPLERS[template](draft)
    positions = np.array([[place for place, _ in stroke] for stroke in draft.strokes])
    yaws = np.array([[yaw for _, yaw in stroke] for stroke in draft.strokes])
    objects = np.zeros((len(draft.scenes), OBSTACLES + OBJECTS, OBJECT))
    objects[..., 6], objects[..., 8] = 1.0, -1.0
    obstacles = _obstacles(draft, positions)
    objects[:, : len(obstacles)] = obstacles
    for stage, scene in enumerate(draft.scenes):
        for index, place in enumerate(scene):
            if place is not None:
                objects[stage, OBSTACLES + index, :3] = place
                objects[stage, OBSTACLES + index, 8] = draft.radii[index]
    tilts = np.broadcast_to(draft.tilt, (*yaws.shape, 2)).copy()
    return Instance(positions, yaws, tilts, objects, draft.radii, instruction)


def _pick_place(draft: _Draft) -> str:
    start, end = _places(draft, 2, (0.15, 0.9))
    if draft.rng.random() < 0.4:
        end = raised(end, draft.rng.uniform(0.03, 0.25))
    yaws = (draft.yaw_at(start), draft.yaw_at(end))
    draft.places[0] = start
    draft.handle(0, end, yaws, _lift(draft))
    return words.pick_place(draft.rng, start, end)


def _push(draft: _Draft) -> str:
    start, end = _line(draft, away=True)
    _stroke(draft, start, end)
    return words.push(draft.rng, start, end)


def _pull(draft: _Draft) -> str:
    start, end = _line(draft, away=False)
    _stroke(draft, start, end)
    return words.pull(draft.rng, start, end)


def _rotate_reposition(draft: _Draft) -> str:
    start, end = _places(draft, 2, (0.12, 0.5))
    angle = draft.rng.choice((-1, 1)) * math.radians(15 * draft.rng.integers(2, 9))
    grasp = math.atan2(start[1], start[0]) - angle / 2 + draft.rng.uniform(-0.4, 0.4)
    draft.places[0] = start
    draft.handle(0, end, (grasp, grasp + angle), _lift(draft))
    return words.turn_and_move(draft.rng, start, end, angle)


def _rotate_view(draft: _Draft) -> str:
    (place,) = _places(draft, 1, (0, 0))
    views = list(words.VIEWS)
    view = views[draft.rng.integers(len(views))]
    azimuth = math.atan2(place[1], place[0])
    # In the end the tool's x axis lies along the view's direction: either way round, as two fingers are alike.
    end = words.VIEWS[view] - math.pi * round((words.VIEWS[view] - azimuth) / math.pi)
    angle = math.copysign(draft.rng.uniform(math.radians(25), math.radians(140)), end - azimuth + draft.rng.normal(0, 0.3))
    grasp = end - angle
    above, lifted = raised(place, _lift(draft)), raised(place, draft.rng.uniform(0.03, 0.08))
    draft.places[0] = place
    draft.stroke(0, (above, grasp), (place, grasp), (lifted, grasp), (lifted, end), (place, end), (above, end))
    return words.turn_to_view(draft.rng, view)


def _swap(draft: _Draft) -> str:
    first, second, spare = _places(draft, 3, (0.16, 0.6))
    lift = _lift(draft)
    draft.places[0] = first
    draft.places[1] = second
    turns = [draft.yaw_at(place) for place in (first, second, spare)]
    draft.handle(0, spare, (turns[0], turns[2]), lift)
    draft.handle(1, first, (turns[1], turns[0]), lift)
    draft.handle(0, second, (turns[2], turns[1]), lift)
    return words.swap(draft.rng)


_SAMPLERS: dict[Template, Callable[[_Draft], str]] = {
    "pick_place": _pick_place,
    "push": _push,
    "pull": _pull,
    "rotate_reposition": _rotate_reposition,
    "rotate_view": _rotate_view,
    "swap": _swap,
}


def _lift(draft: _Draft) -> float:
    return draft.rng.uniform(0.1, 0.2)


def _places(draft: _Draft, count: int, apart: tuple[float, float]) -> list[np.ndarray]:
    """Places on the table within reach, all of them at least the given distance apart, or, after some tries, as sampled."""
    near, far = draft.arm.reach
    places: list[np.ndarray] = []
    for _ in range(_TRIES):
        radius = np.sqrt(draft.rng.uniform(near**2, far**2, count))
        azimuth = draft.rng.uniform(-_SECTOR, _SECTOR, count)
        height = draft.rng.uniform(0.035, 0.1, count)
        places = list(np.stack((radius * np.cos(azimuth), radius * np.sin(azimuth), height), -1))
        if all(apart[0] <= math.dist(a[:2], b[:2]) <= apart[1] for index, a in enumerate(places) for b in places[:index]):
            break
    return places


def _line(draft: _Draft, away: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a line on the table: away from the base, or toward it, up to 40 degrees to a side."""
    near, far = draft.arm.reach
    start = end = np.zeros(3)
    for _ in range(_TRIES):
        (start,) = _places(draft, 1, (0, 0))
        heading = math.atan2(start[1], start[0]) + draft.rng.uniform(-1, 1) * math.radians(40) + (0 if away else math.pi)
        length = draft.rng.uniform(0.08, 0.3)
        end = start + length * np.array((math.cos(heading), math.sin(heading), 0.0))
        ahead = end[0] - start[0] if away else start[0] - end[0]
        if near < math.hypot(end[0], end[1]) < far and ahead > 0.4 * length:
            break
    return start, end


def _stroke(draft: _Draft, start: np.ndarray, end: np.ndarray) -> None:
    """Down, along a line and up again; the object is where the line begins and goes along."""
    yaw = math.atan2(start[1], start[0]) + draft.rng.uniform(-0.6, 0.6)
    lift = _lift(draft)
    draft.places[0] = start
    draft.stroke(0, (raised(start, lift), yaw), (start, yaw), (end, yaw), (raised(end, lift), yaw))


def _obstacles(draft: _Draft, positions: np.ndarray) -> np.ndarray:
    """Boxes and spheres, at least as far from every stroke as a gripper needs; often one is on the straight way between two strokes."""
    rng = draft.rng
    if rng.random() > 0.6:
        return np.zeros((0, OBJECT))
    vertices = [_home(draft.arm), *positions.reshape(-1, 3)[:, :2]]
    centres = positions[:, 0, :2]
    found: list[np.ndarray] = []
    for wanted in range(1 + int(rng.integers(OBSTACLES))):
        for _ in range(8):
            if wanted == 0 and len(centres) > 1:
                first, second = rng.choice(len(centres), 2, replace=False)
                share = rng.uniform(0.35, 0.65)
                centre = centres[first] * share + centres[second] * (1 - share) + rng.normal(0, 0.02, 2)
            else:
                (place,) = _places(draft, 1, (0, 0))
                centre = place[:2]
            half = rng.uniform(0.02, 0.06, 2)
            radius = 0.005
            height = rng.uniform(0.08, 0.4)
            half_height = height / 2 - radius
            if rng.random() < 0.3:
                radius = rng.uniform(0.04, 0.08)
                half, half_height, height = np.zeros(2), 0.0, 2 * rng.uniform(radius, 0.3)
            size = math.hypot(half[0], half[1]) + radius
            away = min(float(_from_line(centre, a, b)) for stroke in positions for a, b in pairwise(stroke))
            away = min(away, *(math.dist(centre, vertex) for vertex in vertices))
            if away > _ROOM + size and math.hypot(*centre) > 0.22 + size:
                angle = rng.uniform(-math.pi, math.pi)
                found.append(np.array((*centre, height / 2, *half, half_height, math.cos(angle), math.sin(angle), radius)))
                break
    return np.array(found).reshape(-1, OBJECT)


@cache
def _home(arm: Arm) -> tuple[float, float]:
    """Where the tool is before a motion, seen from above, up to the random part."""
    place = Chain.of(arm).links(torch.tensor(arm.home, dtype=torch.float64)).tool_position
    return float(place[0]), float(place[1])


def _from_line(point: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """From a point to a segment, seen from above."""
    along = b[:2] - a[:2]
    share = float(np.clip(((point - a[:2]) @ along) / max(float(along @ along), 1e-9), 0, 1))
    return float(np.linalg.norm(point - a[:2] - share * along))
