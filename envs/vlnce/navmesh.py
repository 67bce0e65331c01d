"""The walkable surface of a scene, out of habitat's ``.navmesh`` file: nearest points, moves and shortest ways, equal to habitat's.

The algorithms are Detour's (recastnavigation/recastnavigation@9f4ce64, Detour/Source/DetourNavMesh.cpp and DetourNavMeshQuery.cpp;
zlib licence, Mikko Mononen), written anew for one tile, as habitat calls them (facebookresearch/habitat-sim@57ee494
src/esp/nav/PathFinder.cpp). Detour computes in float32 and this in float64, on the same float32 vertices.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import deque
from pathlib import Path
from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from ..errors import VlarigError
from .polygons import Point, Polygon, almost_equal, between, crossing, signed_area, to_segment
from .world import Surface, Way

#: The file: a head, the settings of a file of version 2 (PathFinder.h, ``NavMeshSettings``), then the tiles.
FILE_MAGIC, SETTINGS_BYTES = int.from_bytes(b"MSET", "big"), 56
TILE_MAGIC, TILE_VERSION = int.from_bytes(b"DNAV", "big"), 7
TILE_HEAD = struct.Struct("<5iI9i10f")

_POLYGON = np.dtype(
    [("link", "<u4"), ("corners", "<u2", 6), ("neighbours", "<u2", 6), ("flags", "<u2"), ("count", "u1"), ("kind", "u1")]
)
_DETAIL = np.dtype([("vertex", "<u4"), ("triangle", "<u4"), ("vertices", "u1"), ("triangles", "u1"), ("pad", "u1", 2)])
_LEAF = np.dtype([("low", "<u2", 3), ("high", "<u2", 3), ("polygon", "<i4")])

#: Bits of a polygon's flags and neighbours: it can be walked on; the neighbour is in another tile.
WALK, OUTSIDE = 0x01, 0x8000

#: Polygons smaller than this, in m2, are no part of the surface (PathFinder.cpp, ``removeZeroAreaPolys``).
LEAST_AREA = 1e-5

#: Half of the box in which the nearest point is looked for, metres (``projectToPoly``).
REACH = (2.0, 4.0, 2.0)

#: Longest corridor and most nodes of a search (``findPathInternal``, ``initNavQuery``), and the weight of the straight way (H_SCALE).
MOST_POLYGONS, MOST_NODES, GUESS = 256, 2048, 0.999

#: Most polygons of a move, and most that wait to be looked at (``m_tinyNodePool``, MAX_STACK).
MOST_VISITED, MOST_WAITING = 64, 48

#: By which a move's end that lies on two parts of the surface is moved into its own, metres (``tryStep``).
NUDGE = 1e-4


class NavMesh(Surface):
    """A scene's walkable surface.

    Args:
        data: The contents of a file.

    Raises:
        ValueError, or what numpy and struct raise: It is damaged.
    """

    def __init__(self, data: bytes) -> None:
        tile = _tile(data)
        head = TILE_HEAD.unpack_from(tile)
        if head[0] != TILE_MAGIC or head[1] != TILE_VERSION:
            raise ValueError(f"its tile begins with {tile[:8]!r}")
        polygons, vertices, links, details, detail_vertices, triangles, leaves, connections = head[6:14]
        climb, low, high, quantum = head[17], np.array(head[18:21]), np.array(head[21:24]), head[24]
        if min(head[6:14]) < 0 or not polygons or details < polygons or connections:
            raise ValueError("its tile has counts that make no surface")
        layout = [
            ("corners", "<f4", (vertices, 3)),
            ("polygons", _POLYGON, (polygons,)),
            ("links", "<u4", (links, 3)),
            ("shapes", _DETAIL, (details,)),
            ("inner", "<f4", (detail_vertices, 3)),
            ("faces", "u1", (triangles, 4)),
            ("tree", _LEAF, (leaves,)),
        ]
        corners, listed, _, shapes, inner, faces, tree = np.frombuffer(tile, np.dtype(layout), 1, TILE_HEAD.size)[0]
        corners, inner = corners.astype(np.float64), inner.astype(np.float64)
        numbers = [corners, inner, low, high, [quantum, climb]]
        if not all(np.isfinite(each).all() and np.abs(each).max(initial=0) < 1e6 for each in numbers) or quantum <= 0:
            raise ValueError("it has numbers that are no places in a house")
        made = [_polygon(index, *each, corners, inner, faces) for index, each in enumerate(zip(listed, shapes))]
        for polygon, source in zip(made, listed):
            for edge in range(len(polygon.corners)):
                beyond = int(source["neighbours"][edge])
                if beyond and not beyond & OUTSIDE:
                    polygon.neighbours[edge] = made[beyond - 1]
            polygon.edges = [(edge, beyond) for edge, beyond in enumerate(polygon.neighbours) if beyond is not None]
        ends = tree[tree["polygon"] >= 0]
        # A tree may end with nodes that were never filled, which say polygon 0 again.
        names, firsts = np.unique(ends["polygon"], return_index=True)
        if names.tolist() != list(range(polygons)):
            raise ValueError("its tree of boxes does not hold each polygon")
        ends = ends[np.sort(firsts)]
        order = ends["polygon"].tolist()
        for place, index in enumerate(order):
            made[index].index = place
        boxes = np.concatenate([ends["low"], ends["high"]], axis=1).astype(np.int64)
        self._polygons, self._boxes, self._low, self._high = [made[index] for index in order], boxes, low, high
        self._quantum, self._climb = quantum, climb
        self._ranges = np.array([[*np.min(each.corners, axis=0), *np.max(each.corners, axis=0)] for each in self._polygons])
        self._find_islands()

    @classmethod
    def read(cls, path: Path) -> NavMesh:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VlarigError(f"{path} cannot be read ({error.strerror or error}); put the scene's .navmesh there") from None
        try:
            with np.errstate(all="ignore"):
                return cls(data)
        except (ValueError, IndexError, struct.error, TypeError, OverflowError, MemoryError) as error:
            raise VlarigError(f"{path} is no intact .navmesh of habitat's ({error}); get it anew") from None

    def snap(self, point: ArrayLike) -> np.ndarray:
        """The nearest point, ``float32[3]``; NaN where none is near (habitat's ``snap_point``)."""
        found = self._project(_floats(point))
        return np.full(3, np.nan, np.float32) if found is None else np.array(found[1], np.float32)

    def move(self, start: ArrayLike, end: ArrayLike, sliding: bool) -> np.ndarray:
        """Where a step ends, ``float32[3]`` (habitat's ``try_step`` and ``try_step_no_sliding``)."""
        begin, goal = _floats(start), _floats(end)
        first, last = self._project(begin), self._project(goal)
        if first is None or last is None or first[0].island != last[0].island:
            return np.array(start, np.float32)
        arrival = self._along(first[0], first[1], goal, sliding)
        if arrival is None:
            return np.array(start, np.float32)
        polygon, reached = arrival
        height = polygon.height(reached)
        reached = (reached[0], reached[1] if height is None else height, reached[2])
        landed = self._project(reached)
        if landed is None or landed[0].island != first[0].island:
            centre = np.mean(polygon.corners, axis=0)
            away = centre - reached
            reached = reached + NUDGE * away / np.linalg.norm(away)
        return np.array(reached, np.float32)

    def way(self, start: ArrayLike, end: ArrayLike) -> Way:
        """The shortest way (habitat's ``find_path``)."""
        begin, goal = _floats(start), _floats(end)
        first, last = self._project(begin), self._project(goal)
        if first is None or last is None:
            return _NO_WAY
        if all(_fuzzily_equal(one, other) for one, other in zip(first[1], last[1])):
            return Way(0.0, np.array([first[1], last[1]], np.float32))
        if first[0].island != last[0].island:
            return _NO_WAY
        corridor = self._corridor(first[0], last[0], first[1], last[1])
        if not corridor:
            return _NO_WAY
        points = np.array(_pulled(corridor, begin, goal), np.float32)
        length = float(np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=1).sum())
        return Way(length, points)

    def floor(self) -> np.ndarray:
        return np.array([triangle[0] for each in self._polygons if each.open for triangle in each.triangles], np.float32)

    def _project(self, point: Point) -> Optional[tuple[Polygon, Point]]:
        """The nearest polygon within reach, and its nearest point. Over a polygon, and within a climb of it, counts as on it."""
        if not all(map(math.isfinite, point)):
            return None
        at = np.array(point)
        low = (self._quantum * (np.clip(at - REACH, self._low, self._high) - self._low)).astype(np.int64) & 0xFFFE
        high = (self._quantum * (np.clip(at + REACH, self._low, self._high) - self._low) + 1).astype(np.int64) | 1
        near = np.flatnonzero(((self._boxes[:, :3] <= high) & (self._boxes[:, 3:] >= low)).all(axis=1))
        if not len(near):
            return None
        # What is beside a point at least: the distance to a polygon's box.
        ranges = self._ranges[near]
        aside = np.maximum(0, np.maximum(ranges[:, [0, 2]] - at[[0, 2]], at[[0, 2]] - ranges[:, [3, 5]]))
        bounds = ((aside**2).sum(axis=1) * 0.999999).tolist()
        best, found = math.inf, None
        for bound, place in sorted(zip(bounds, near.tolist())):
            if bound > best or (found is not None and bound == best > 0):
                break
            polygon = self._polygons[place]
            if not polygon.open:
                continue
            nearest, over = polygon.nearest(point)
            apart = [one - other for one, other in zip(point, nearest)]
            distance = max(abs(apart[1]) - self._climb, 0.0) ** 2 if over else sum(each * each for each in apart)
            if distance < best:
                best, found = distance, (polygon, nearest)
        return found

    def _along(self, polygon: Polygon, start: Point, end: Point, sliding: bool) -> Optional[tuple[Polygon, Point]]:
        """Where a move along the surface ends: the polygon, and the point of it that is nearest to the end wanted.

        With sliding it is Detour's ``moveAlongSurface``. Without, the move follows the straight line alone, and ends where that meets a
        wall: erikwijmans/recastnavigation@8eef00b, which habitat-sim up to 0.3.3 is built on.
        """
        midpoint, reach = between(start, end, 0.5), (math.dist(start, end) / 2 + 0.001) ** 2
        waiting, seen, best, found = deque([polygon]), {polygon.index}, math.inf, None
        while waiting:
            here = waiting.popleft()
            if here.contains(end):
                return here, end
            for edge, begin, finish in here.sides:
                meeting = None if sliding else crossing(begin, finish, start, end)
                beyond = here.neighbours[edge]
                if beyond is None or not beyond.open:
                    if sliding or meeting is not None:
                        at = between(begin, finish, to_segment(end, begin, finish)[1] if meeting is None else meeting)
                        apart = (at[0] - end[0]) ** 2 + (at[2] - end[2]) ** 2
                        if apart < best:
                            best, found = apart, (here, at)
                elif (
                    beyond.index not in seen
                    and max(len(seen) - MOST_VISITED, len(waiting) - MOST_WAITING) < 0
                    and to_segment(midpoint, begin, finish)[0] <= reach
                    and (sliding or meeting is not None)
                ):
                    seen.add(beyond.index)
                    waiting.append(beyond)
        return found

    def _corridor(self, first: Polygon, last: Polygon, start: Point, end: Point) -> list[Polygon]:
        """Detour's ``findPath``: A* over the midpoints of edges; empty where there is no whole corridor of a bearable length."""
        if first is last:
            return [first]
        places: dict[int, Point] = {first.index: start}
        costs: dict[int, float] = {first.index: 0.0}
        totals: dict[int, float] = {first.index: math.dist(start, end) * GUESS}
        before: dict[int, Optional[Polygon]] = {first.index: None}
        heap = [(totals[first.index], 0, first.index)]
        count, whole = 0, True
        while heap:
            total, _, index = heapq.heappop(heap)
            if total > totals[index]:
                continue  # a better way was found since
            if index == last.index:
                break
            here, place, cost = self._polygons[index], places[index], costs[index]
            parent = before[index]
            for edge, beyond in here.edges:
                if beyond is parent or not beyond.open:
                    continue
                at = beyond.index
                if at not in places:
                    if len(places) >= MOST_NODES:
                        whole = False
                        continue
                    places[at] = between(here.corners[edge], here.corners[(edge + 1) % len(here.corners)], 0.5)
                spent = cost + math.dist(place, places[at])
                left = 0.0
                if at == last.index:
                    spent += math.dist(places[at], end)
                else:
                    left = math.dist(places[at], end) * GUESS
                if spent + left < totals.get(at, math.inf):
                    before[at], costs[at], totals[at] = here, spent, spent + left
                    count += 1
                    heapq.heappush(heap, (spent + left, count, at))
        if last.index not in before or not whole:
            return []
        corridor: list[Polygon] = []
        step: Optional[Polygon] = last
        while step is not None:
            corridor.append(step)
            step = before[step.index]
        return corridor[::-1] if len(corridor) <= MOST_POLYGONS else []

    def _find_islands(self) -> None:
        """Number the connected parts; then take out polygons without an area, which connect others nevertheless."""
        for number, begin in enumerate(self._polygons):
            if begin.island >= 0:
                continue
            begin.island, waiting = number, [begin]
            while waiting:
                for beyond in filter(None, waiting.pop().neighbours):
                    if beyond.island < 0 and beyond.open:
                        beyond.island = number
                        waiting.append(beyond)
        for each in self._polygons:
            shape = np.array([triangle[0] for triangle in each.triangles])
            area = np.linalg.norm(np.cross(shape[:, 1] - shape[:, 0], shape[:, 2] - shape[:, 1]), axis=1).sum() / 2
            each.open = each.open and bool(area >= LEAST_AREA)


_NO_WAY = Way(math.inf, np.zeros((0, 3), np.float32))


def _tile(data: bytes) -> bytes:
    """The only tile in a file."""
    magic, version, tiles = struct.unpack_from("<3i", data)
    if magic != FILE_MAGIC or version not in (1, 2):
        raise ValueError(f"it begins with {data[:8]!r}")
    if tiles != 1:
        raise ValueError(f"it has {tiles} tiles, and habitat writes one")
    offset = 12 + 28 + (SETTINGS_BYTES if version == 2 else 0)
    _, size = struct.unpack_from("<Ii", data, offset)
    tile = data[offset + 8 :]
    if size != len(tile):
        raise ValueError(f"it has {len(tile)} bytes of a tile of {size}")
    return tile


def _polygon(index: int, source: np.void, shape: np.void, corners: np.ndarray, inner: np.ndarray, faces: np.ndarray) -> Polygon:
    """A polygon with its triangles, without its neighbours."""
    count = int(source["count"])
    if not 3 <= count <= 6 or not shape["triangles"] or source["kind"] >> 6:
        raise ValueError(f"polygon {index} is none")
    own = [tuple(corners[place]) for place in source["corners"][:count].tolist()]
    first, base = int(shape["triangle"]), int(shape["vertex"])
    triangles = []
    for *names, flags in faces[first : first + int(shape["triangles"])].tolist():
        points = tuple(own[name] if name < count else tuple(inner[base + name - count]) for name in names)
        at_edge = tuple(bool(flags >> (2 * side) & 1) for side in range(3))
        triangles.append((points, at_edge, tuple(names)))
    if len(triangles) != shape["triangles"]:
        raise ValueError(f"polygon {index} lacks triangles")
    return Polygon(index, own, [None] * count, triangles, bool(source["flags"] & WALK))


def _pulled(corridor: list[Polygon], start: Point, end: Point) -> list[Point]:
    """Detour's ``findStraightPath``: the corners of the string that is pulled tight in a corridor, by the funnel algorithm."""
    start, end = corridor[0].nearest_on_edges(start), corridor[-1].nearest_on_edges(end)
    points = [start]

    def append(point: Point) -> None:
        if math.dist(points[-1], point) ** 2 >= 1 / 16384**2:  # dtVequal
            points.append(point)

    apex = start
    sides, side_at, at = [start, start], [0, 0], 0  # the right and the left side of the funnel, and where they were found
    while len(corridor) > 1 and at < len(corridor):
        ahead = [end, end]
        if at + 1 < len(corridor):
            here = corridor[at]
            edge = next(edge for edge, beyond in here.edges if beyond is corridor[at + 1])
            ahead = [here.corners[(edge + 1) % len(here.corners)], here.corners[edge]]
            if at == 0 and to_segment(apex, *ahead[::-1])[0] < 0.001**2:
                at += 1
                continue
        for side, sign in enumerate((1, -1)):
            if sign * signed_area(apex, sides[side], ahead[side]) > 0:
                continue  # the funnel would be wider
            if almost_equal(apex, sides[side]) or sign * signed_area(apex, sides[1 - side], ahead[side]) > 0:
                sides[side], side_at[side] = ahead[side], at
            else:  # it would be behind the other side, which is a corner then
                apex, at = sides[1 - side], side_at[1 - side]
                append(apex)
                sides, side_at = [apex, apex], [at, at]
                break
        at += 1
    append(end)
    return points


def _floats(point: ArrayLike) -> tuple[float, float, float]:
    """A point's coordinates as float32 holds them."""
    x, y, z = np.asarray(point, np.float32).tolist()
    return x, y, z


def _fuzzily_equal(one: float, other: float) -> bool:
    """Magnum's comparison of floats, by which habitat tells that a start is its end (TypeTraits.h, epsilon 1e-5)."""
    apart = abs(one - other)
    return apart < 1e-5 or apart / (abs(one) + abs(other)) < 1e-5
