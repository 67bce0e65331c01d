"""The walkable surface of a scene, out of habitat's ``.navmesh`` file: nearest points, moves and shortest ways, equal to habitat's.

The algorithms are Detour's (recastnavigation/recastnavigation@9f4ce64, Detour/Source/DetourNavMesh.cpp, DetourNavMeshQuery.cpp and
DetourCommon.cpp; zlib licence, Mikko Mononen), written anew for one tile, as habitat calls them (facebookresearch/habitat-sim@57ee494
src/esp/nav/PathFinder.cpp). Detour computes in float32 and this in float64, on the same float32 vertices.

Polygons are convex, their corners counter-clockwise seen from below; "across" is in the ground plane, which leaves out y.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from ..errors import VlarigError
from .world import Surface, Way

Point = Sequence[float]

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


@dataclass(eq=False)
class Polygon:
    """A polygon of the surface.

    Attributes:
        index: Its place.
        corners: Its corners, metres.
        neighbours: The polygon beyond each edge, the first of which is from the first corner to the second; ``None`` at a wall.
        triangles: Its exact shape: three corners, and whether each side, from the last one on, is at the polygon's edge.
        open: Whether it can be walked on.
        island: Number of the connected part that it belongs to.
    """

    index: int
    corners: Sequence[Point]
    neighbours: list[Optional[Polygon]]
    triangles: list[tuple[tuple[Point, Point, Point], tuple[bool, bool, bool], tuple[int, int, int]]]
    open: bool
    island: int = -1
    edges: list[tuple[int, Polygon]] = field(default_factory=list)
    """The edges with a neighbour, and the neighbour."""

    @property
    def sides(self) -> Iterator[tuple[int, Point, Point]]:
        """Index, begin and end of each edge, the last one first."""
        count = len(self.corners)
        for end in range(count):
            begin = (end - 1) % count
            yield begin, self.corners[begin], self.corners[end]

    def contains(self, point: Point) -> bool:
        """Whether a point is inside, seen from above."""
        x, z, inside = point[0], point[2], False
        before = self.corners[-1]
        for corner in self.corners:
            if (corner[2] > z) != (before[2] > z) and x < (before[0] - corner[0]) * (z - corner[2]) / (
                before[2] - corner[2]
            ) + corner[0]:
                inside = not inside
            before = corner
        return inside

    def height(self, point: Point) -> Optional[float]:
        """The surface's y at a point; ``None`` outside."""
        if not self.contains(point):
            return None
        for (a, b, c), _, _ in self.triangles:
            found = _height_in(point, a, b, c)
            if found is not None:
                return found
        return self._on_sides(point, boundary=False)[1]

    def nearest(self, point: Point) -> tuple[Point, bool]:
        """The nearest point, and whether the point is over the polygon."""
        height = self.height(point)
        return ((point[0], height, point[2]), True) if height is not None else (self._on_sides(point, boundary=True), False)

    def nearest_on_edges(self, point: Point) -> Point:
        """The point itself where it is inside, else the nearest one of the edges."""
        if self.contains(point):
            return point
        measured = {edge: (*_to_segment(point, begin, end), begin, end) for edge, begin, end in self.sides}
        _, share, begin, end = min((measured[edge] for edge in sorted(measured)), key=lambda each: each[0])
        return _between(begin, end, share)

    def _on_sides(self, point: Point, boundary: bool) -> Point:
        """The nearest point of the triangles' sides; of those at the polygon's edge alone with ``boundary``."""
        best, found = math.inf, self.corners[0]
        for corners, at_edge, names in self.triangles:
            for side in range(3):
                before = side - 1
                if not at_edge[before] and (boundary or names[before] < names[side]):
                    continue
                apart, share = _to_segment(point, corners[before], corners[side])
                if apart < best:
                    best, found = apart, _between(corners[before], corners[side], share)
        return found


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
        """The surface in a file.

        Raises:
            VlarigError: It is missing or damaged.
        """
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
        """Its triangles, ``float32[triangles, 3, 3]``."""
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
        middle, reach = _between(start, end, 0.5), (math.dist(start, end) / 2 + 0.001) ** 2
        waiting, seen, best, found = deque([polygon]), {polygon.index}, math.inf, None
        while waiting:
            here = waiting.popleft()
            if here.contains(end):
                return here, end
            for edge, begin, finish in here.sides:
                meeting = None if sliding else _crossing(begin, finish, start, end)
                beyond = here.neighbours[edge]
                if beyond is None or not beyond.open:
                    if sliding or meeting is not None:
                        at = _between(begin, finish, _to_segment(end, begin, finish)[1] if meeting is None else meeting)
                        apart = (at[0] - end[0]) ** 2 + (at[2] - end[2]) ** 2
                        if apart < best:
                            best, found = apart, (here, at)
                elif (
                    beyond.index not in seen
                    and max(len(seen) - MOST_VISITED, len(waiting) - MOST_WAITING) < 0
                    and _to_segment(middle, begin, finish)[0] <= reach
                    and (sliding or meeting is not None)
                ):
                    seen.add(beyond.index)
                    waiting.append(beyond)
        return found

    def _corridor(self, first: Polygon, last: Polygon, start: Point, end: Point) -> list[Polygon]:
        """Detour's ``findPath``: A* over the middles of edges; empty where there is no whole corridor of a bearable length."""
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
                    places[at] = _between(here.corners[edge], here.corners[(edge + 1) % len(here.corners)], 0.5)
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
            if at == 0 and _to_segment(apex, *ahead[::-1])[0] < 0.001**2:
                at += 1
                continue
        for side, sign in enumerate((1, -1)):
            if sign * _area(apex, sides[side], ahead[side]) > 0:
                continue  # the funnel would be wider
            if _same(apex, sides[side]) or sign * _area(apex, sides[1 - side], ahead[side]) > 0:
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


def _between(one: Point, other: Point, share: float) -> tuple[float, float, float]:
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )


def _same(one: Point, other: Point) -> bool:
    """Detour's ``dtVequal``."""
    return math.dist(one, other) ** 2 < 1 / 16384**2


def _fuzzily_equal(one: float, other: float) -> bool:
    """Magnum's comparison of floats, by which habitat tells that a start is its end (TypeTraits.h, epsilon 1e-5)."""
    apart = abs(one - other)
    return apart < 1e-5 or apart / (abs(one) + abs(other)) < 1e-5


def _area(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area across of a triangle (``dtTriArea2D``)."""
    return (c[0] - a[0]) * (b[2] - a[2]) - (b[0] - a[0]) * (c[2] - a[2])


def _to_segment(point: Point, begin: Point, end: Point) -> tuple[float, float]:
    """The squared distance across from a point to a segment, and the share of it where the nearest point is."""
    along_x, along_z = end[0] - begin[0], end[2] - begin[2]
    square = along_x * along_x + along_z * along_z
    share = along_x * (point[0] - begin[0]) + along_z * (point[2] - begin[2])
    share = min(max(share / square if square > 0 else share, 0.0), 1.0)
    x, z = begin[0] + share * along_x - point[0], begin[2] + share * along_z - point[2]
    return x * x + z * z, share


def _height_in(point: Point, a: Point, b: Point, c: Point) -> Optional[float]:
    """The y of a triangle at a point; ``None`` outside or where it has no area across (``dtClosestHeightPointTriangle``)."""
    cx, cz, bx, bz, x, z = c[0] - a[0], c[2] - a[2], b[0] - a[0], b[2] - a[2], point[0] - a[0], point[2] - a[2]
    scale = cx * bz - cz * bx
    if abs(scale) < 1e-6:
        return None
    u, v = bz * x - bx * z, cx * z - cz * x
    if scale < 0:
        scale, u, v = -scale, -u, -v
    return a[1] + ((c[1] - a[1]) * u + (b[1] - a[1]) * v) / scale if u >= 0 and v >= 0 and u + v <= scale else None


def _crossing(begin: Point, end: Point, start: Point, goal: Point) -> Optional[float]:
    """The share of the first segment at which it crosses the second one across (``dtIntersectSegSeg2D``)."""
    ux, uz, vx, vz = end[0] - begin[0], end[2] - begin[2], goal[0] - start[0], goal[2] - start[2]
    wx, wz = begin[0] - start[0], begin[2] - start[2]
    scale = ux * vz - uz * vx
    if abs(scale) < 1e-6:
        return None
    s, t = (vx * wz - vz * wx) / scale, (ux * wz - uz * wx) / scale
    return s if 0 <= s <= 1 and 0 <= t <= 1 else None
