"""Polygons of a walkable surface, and Detour's geometry of them.

Sources: recastnavigation/recastnavigation@9f4ce64 Detour/Source/DetourCommon.cpp and DetourNavMesh.cpp (zlib licence, Mikko Mononen),
written anew. Polygons are convex, their corners counter-clockwise seen from below; "across" is in the ground plane, which leaves out y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

Point = Sequence[float]


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
            found = height_in(point, a, b, c)
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
        measured = {edge: (*to_segment(point, begin, end), begin, end) for edge, begin, end in self.sides}
        _, share, begin, end = min((measured[edge] for edge in sorted(measured)), key=lambda each: each[0])
        return between(begin, end, share)

    def _on_sides(self, point: Point, boundary: bool) -> Point:
        """The nearest point of the triangles' sides; of those at the polygon's edge alone with ``boundary``."""
        best, found = math.inf, self.corners[0]
        for corners, at_edge, names in self.triangles:
            for side in range(3):
                before = side - 1
                if not at_edge[before] and (boundary or names[before] < names[side]):
                    continue
                apart, share = to_segment(point, corners[before], corners[side])
                if apart < best:
                    best, found = apart, between(corners[before], corners[side], share)
        return found


def between(one: Point, other: Point, share: float) -> tuple[float, float, float]:
    """The point at a share of the way from one to the other."""
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )


def almost_equal(one: Point, other: Point) -> bool:
    """Detour's ``dtVequal``."""
    return math.dist(one, other) ** 2 < 1 / 16384**2


def signed_area(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area across of a triangle (``dtTriArea2D``)."""
    return (c[0] - a[0]) * (b[2] - a[2]) - (b[0] - a[0]) * (c[2] - a[2])


def to_segment(point: Point, begin: Point, end: Point) -> tuple[float, float]:
    """The squared distance across from a point to a segment, and the share of it where the nearest point is."""
    along_x, along_z = end[0] - begin[0], end[2] - begin[2]
    square = along_x * along_x + along_z * along_z
    share = along_x * (point[0] - begin[0]) + along_z * (point[2] - begin[2])
    share = min(max(share / square if square > 0 else share, 0.0), 1.0)
    x, z = begin[0] + share * along_x - point[0], begin[2] + share * along_z - point[2]
    return x * x + z * z, share


def height_in(point: Point, a: Point, b: Point, c: Point) -> Optional[float]:
    """The y of a triangle at a point; ``None`` outside or where it has no area across (``dtClosestHeightPointTriangle``)."""
    cx, cz, bx, bz, x, z = c[0] - a[0], c[2] - a[2], b[0] - a[0], b[2] - a[2], point[0] - a[0], point[2] - a[2]
    scale = cx * bz - cz * bx
    if abs(scale) < 1e-6:
        return None
    u, v = bz * x - bx * z, cx * z - cz * x
    if scale < 0:
        scale, u, v = -scale, -u, -v
    return a[1] + ((c[1] - a[1]) * u + (b[1] - a[1]) * v) / scale if u >= 0 and v >= 0 and u + v <= scale else None


def crossing(begin: Point, end: Point, start: Point, goal: Point) -> Optional[float]:
    """The share of the first segment at which it crosses the second one across (``dtIntersectSegSeg2D``)."""
    ux, uz, vx, vz = end[0] - begin[0], end[2] - begin[2], goal[0] - start[0], goal[2] - start[2]
    wx, wz = begin[0] - start[0], begin[2] - start[2]
    scale = ux * vz - uz * vx
    if abs(scale) < 1e-6:
        return None
    s, t = (vx * wz - vz * wx) / scale, (ux * wz - uz * wx) / scale
    return s if 0 <= s <= 1 and 0 <= t <= 1 else None
