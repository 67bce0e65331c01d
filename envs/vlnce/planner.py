"""The shortest-path follower: steps and turns that lead an agent to a goal, tried in the world, with or without sliding.

A best-first search over the headings that an agent can have, guided by the geodesic distance. The way straight to the next corner is
tried first, so that an open way costs no search. Where that meets a wall, other headings are tried.
VLN-CE's own follower (habitat_extensions/shortest_path_follower.py@729d141) turns to the next corner and steps; without sliding it gets
stuck at walls.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from .walking import Primitive, Walker, relative, wrap
from .world import Way

#: Metres to the goal at which the follower has arrived (jacobkrantz/VLN-CE@729d141 habitat_extensions/config/default.py, GOAL_RADIUS).
ARRIVED = 0.5

#: A turn costs as much as this many metres: of ways of the same length the one with fewer turns is taken.
TURN_COST = 0.01

#: The geodesic distance weighs more than the way so far, so that a search goes ahead rather than compare ways that differ by little.
GREED = 1.2

#: Positions nearer to each other than this, in metres, are the same to the search.
CELL = 0.06

#: Positions from which the search goes on at most.
MOST_VISITS = 3000

#: By how many metres the headings that lead away come later.
AWAY_PENALTY = 1.0

#: Headings tried at first, by how far they are from the way to the next corner, in turns; the others follow where these lead nowhere.
NEAR = 2


@dataclass(frozen=True)
class Plan:
    """Moves that lead to a goal.

    Attributes:
        poses: ``float64[moves + 1, 4]``: y and the pose in the plane, before each move and after the last.
    """

    moves: tuple[Primitive, ...]
    poses: np.ndarray

    def waypoints_from(self, walker: Walker, first: int) -> Optional[tuple[int, np.ndarray]]:
        """The waypoints from where the agent is, ``float64[waypoints, 3]``, and the index of the first.

        ``None`` where the agent is not on the way. Only indices from ``first`` on are looked at.
        """
        here = _place(walker)
        for index in range(first, len(self.poses)):
            if np.abs(self.poses[index] - here).max() < 1e-4:
                poses = self.poses[index:, 1:]
                return index, np.array([relative(*pair) for pair in zip(poses[:-1], poses[1:])]).reshape(-1, 3)
        return None


def plan(walker: Walker, goals: Sequence[np.ndarray]) -> Optional[Plan]:
    """Moves through the goals, one after the other, each ``float32[3]``; ``None`` where a goal cannot be reached."""
    walker, moves, poses = walker.copy(), [], [_place(walker)]
    for goal in goals:
        found = _search(walker, goal)
        if found is None:
            return None
        for move in found:
            walker.move(move)
            moves.append(move)
            poses.append(_place(walker))
    return Plan(tuple(moves), np.array(poses))


def _place(walker: Walker) -> np.ndarray:
    return np.concatenate(([walker.position[1]], walker.pose))


@dataclass(frozen=True)
class _Node:
    """A place that the search has reached.

    Attributes:
        walker: The agent there.
        way: The geodesic way on.
        cost: Of the way so far, metres.
        moves: By which it got there.
        away: Whether the headings that lead away are to be tried.
    """

    walker: Walker
    way: Way
    cost: float = 0.0
    moves: tuple[Primitive, ...] = ()
    away: bool = False


def _search(walker: Walker, goal: np.ndarray) -> Optional[tuple[Primitive, ...]]:
    order, seen = itertools.count(), set()
    heap: list[tuple[float, int, _Node]] = []

    def push(node: _Node, penalty: float = 0.0) -> None:
        heapq.heappush(heap, (node.cost + GREED * node.way.length + penalty, next(order), node))

    push(_Node(walker, walker.surface.way(walker.position, goal)))
    for _ in range(MOST_VISITS):
        if not heap:
            return None
        node = heapq.heappop(heap)[2]
        if node.way.length <= ARRIVED:
            return node.moves
        if not math.isfinite(node.way.length):
            return None
        if not node.away:
            place = tuple(np.round(node.walker.position / CELL).astype(int))
            if place in seen:
                continue
            seen.add(place)
            push(replace(node, away=True), AWAY_PENALTY)
        for following in _steps_from(node, goal):
            push(following)
    return None


def _steps_from(node: _Node, goal: np.ndarray) -> Iterator[_Node]:
    """What is reached by a turn and a step; of the headings towards the goal none after one that leads straight on."""
    rules, turn = node.walker.rules, math.radians(node.walker.rules.turn)
    for turns in _headings(node, turn):
        there = node.walker.copy()
        moves = (*(Primitive(turn=math.copysign(turn, turns)),) * abs(turns), Primitive(rules.step))
        collided = [there.move(move) for move in moves][-1]
        if collided and (not rules.sliding or np.array_equal(there.position, node.walker.position)):
            continue
        way = there.surface.way(there.position, goal)
        cost = node.cost + math.dist(node.walker.position, there.position) + TURN_COST * abs(turns)
        yield _Node(there, way, cost, node.moves + moves)
        if not node.away and way.length <= node.way.length - 0.95 * rules.step:
            return


def _headings(node: _Node, turn: float) -> list[int]:
    """Numbers of turns to the headings to try, the nearest to the way to the next corner first."""
    here, corners = node.walker.position, node.way.points
    ahead = corners[1:] if len(corners) > 1 else corners
    apart = np.hypot(ahead[:, 0] - here[0], ahead[:, 2] - here[2])
    corner = ahead[int(np.argmax(apart > 0.02))]
    bearing = wrap(math.atan2(here[0] - corner[0], here[2] - corner[2]) - node.walker.yaw)
    count = round(2 * math.pi / turn)
    every = range(-((count - 1) // 2), count // 2 + 1)
    ranked = sorted(every, key=lambda turns: (round(abs(wrap(bearing - turns * turn)), 6), abs(turns), turns))
    return ranked[2 * NEAR + 1 :] if node.away else ranked[: 2 * NEAR + 1]
