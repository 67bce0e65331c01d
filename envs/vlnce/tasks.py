"""Searching for an object and following a person (paper, section 3.2.4): what an episode samples, and the person's walk.

The paper names the two kinds of data and prints no rule. Ours: a search ends within a metre of the object's nearest walkable point (the
distance of habitat's ObjectNav); a person is followed who is within 3 m, and ahead within the camera's view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import VlarigError
from .walking import Primitive, Walker, relative, wrap
from .world import Surface

#: Metres from the start of a search to the object, at least and at most; of a walk to be followed, its length.
SEARCH, WALK = (3.0, 30.0), (6.0, 25.0)

#: Tries at sampling a start.
TRIES = 200

#: From an object's centre to where one may stand beside it, metres: the nearest of these that can be reached counts. Its top may be
#: walkable too, and out of reach.
AROUND = tuple(
    np.array([radius * math.cos(angle), 0.0, radius * math.sin(angle)])
    for radius in (0.0, 0.4, 0.8, 1.2)
    for angle in np.arange(8) * math.pi / 4
)

#: Metres that a person is ahead at first, and that it walks in the time of an agent's step or turn. It is slower than the agent, which
#: has to turn too.
HEAD_START, PACE = 1.5, 0.12

#: Moves after a person's arrival at which an episode ends.
PAUSE = 10

#: Metres within which a person is followed, and to which the expert comes.
NEAR, KEEP = 3.0, 1.2

#: A corner of the way that is nearer than this, in metres, is behind already.
CORNER = 0.15

#: Radians to either side within which a person is ahead.
AHEAD = math.radians(45)


class Person:
    """Another walker, on a route.

    Args:
        route: Its corners, ``float32[points, 3]``.
    """

    def __init__(self, route: np.ndarray) -> None:
        self.route = route
        self._reached = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))))
        self.walked = HEAD_START
        """Metres, also those that it would have walked on at its end."""

    @property
    def position(self) -> np.ndarray:
        """``float32[3]``."""
        return self._at(self.walked)

    @property
    def arrived(self) -> bool:
        """Whether it has been at the route's end for a while."""
        return self.walked >= self._reached[-1] + PACE * PAUSE

    def walk(self) -> None:
        """Walk on for the time of a move."""
        self.walked += PACE

    def is_followed(self, walker: Walker) -> bool:
        distance, bearing = _seen(walker, self.position)
        return distance <= NEAR and abs(bearing) <= AHEAD

    def chase(self, walker: Walker, count: int) -> np.ndarray:
        """Waypoints of an agent that follows, ``float64[count, 3]``, the person walking on meanwhile."""
        walker, walked, turn = walker.copy(), self.walked, math.radians(walker.rules.turn)
        waypoints = []
        for _ in range(count):
            there = self._at(walked)
            way = walker.surface.way(walker.position, there)
            far = way.length > KEEP
            corners = [corner for corner in way.points[1:] if far and _seen(walker, corner)[0] > CORNER]
            _, bearing = _seen(walker, corners[0] if corners else there)
            before = walker.pose
            if abs(bearing) > turn / 2:
                walker.move(Primitive(turn=math.copysign(turn, bearing)))
            elif far:
                walker.move(Primitive(walker.rules.step))
            waypoints.append(relative(before, walker.pose))
            walked += PACE
        return np.array(waypoints)

    def _at(self, metres: float) -> np.ndarray:
        return np.array([np.interp(metres, self._reached, self.route[:, axis]) for axis in range(3)], np.float32)


def sample_search(
    surface: Surface, objects: Sequence[Sequence[float]], rng: np.random.Generator
) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """A start some metres from the nearest of some objects: position, yaw, and the objects' nearest walkable points."""
    beside = [[surface.snap(np.array(each) + around) for around in AROUND] for each in objects]
    for _ in range(TRIES):
        start, goals = random_point(surface, rng), []
        for places, each in zip(beside, objects):
            reached = [place for place in places if math.isfinite(surface.way(start, place).length)]
            goals += sorted(reached, key=lambda place: math.dist(place, each))[:1]
        distance = min((surface.way(start, goal).length for goal in goals), default=math.inf)
        if SEARCH[0] <= distance <= SEARCH[1]:
            return start, float(rng.uniform(-math.pi, math.pi)), goals
    raise VlarigError(
        f"no start was found in {TRIES} tries from which a way of {SEARCH[0]:g} to {SEARCH[1]:g} m leads to an object"
    )


def sample_tracking(surface: Surface, rng: np.random.Generator) -> tuple[np.ndarray, float, Person]:
    """A person's walk, and an agent behind it that looks along the way: position, yaw, person."""
    for _ in range(TRIES):
        way = surface.way(random_point(surface, rng), random_point(surface, rng))
        if WALK[0] <= way.length <= WALK[1]:
            person = Person(way.points)
            ahead = person.position - way.points[0]
            return way.points[0], math.atan2(-ahead[0], -ahead[2]), person
    raise VlarigError(f"no walk of {WALK[0]:g} to {WALK[1]:g} m was found in {TRIES} tries")


def random_point(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """A point of the walkable surface, uniformly by area, ``float32[3]``."""
    floor = surface.floor().astype(np.float64)
    areas = np.linalg.norm(np.cross(floor[:, 1] - floor[:, 0], floor[:, 2] - floor[:, 0]), axis=1)
    a, b, c = floor[rng.choice(len(floor), p=areas / areas.sum())]
    u, v = rng.random(2)
    if u + v > 1:
        u, v = 1 - u, 1 - v
    return surface.snap((a + u * (b - a) + v * (c - a)).astype(np.float32))


def _seen(walker: Walker, point: np.ndarray) -> tuple[float, float]:
    """Distance in the plane, metres, and bearing from the agent's heading, radians, of a point."""
    dx, dz = float(point[0] - walker.position[0]), float(point[2] - walker.position[2])
    return math.hypot(dx, dz), wrap(math.atan2(-dx, -dz) - walker.yaw)
