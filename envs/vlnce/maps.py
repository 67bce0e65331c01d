"""Maps from above, for films: the walkable surface, the way that an instruction describes, and the agent's own."""

from __future__ import annotations

import math
from typing import Optional

import numpy as np

#: Pixels of a map's sides.
SIZE = 320

#: Pixels around what is drawn.
MARGIN = 10

#: Floors further from the agent's way than this many metres up or down belong to other storeys.
STOREY = 1.0

VOID, FLOOR, REFERENCE, WAY, GOAL, START, AGENT, PERSON = (
    (24, 26, 30), (214, 217, 222), (58, 122, 206), (214, 60, 52), (40, 150, 80), (120, 124, 132), (24, 26, 30), (30, 60, 200),
)  # fmt: skip


class FloorMap:
    """A map of the storeys that a way leads over; -z is up, x to the right.

    Args:
        floor: The walkable surface, ``float32[triangles, 3, 3]``.
        way: Where the instruction leads, ``float[points, 3]``, from the start to the goal.
    """

    def __init__(self, floor: np.ndarray, way: np.ndarray) -> None:
        near = np.abs(floor[:, :, 1].mean(axis=1)[:, None] - way[:, 1]).min(axis=1) < STOREY
        triangles = floor[near][:, :, [0, 2]] if near.any() else way[:1, None, [0, 2]].repeat(3, axis=1)
        corners = np.concatenate([triangles.reshape(-1, 2), way[:, [0, 2]]])
        extent = np.ptp(corners, axis=0)
        self._scale = (SIZE - 2 * MARGIN) / max(float(extent.max()), 1.0)
        self._corner = corners.min(axis=0) - (SIZE / self._scale - extent) / 2
        self._base = np.full((SIZE, SIZE, 3), VOID, np.uint8)
        for triangle in self._pixels(triangles):
            _fill(self._base, triangle, FLOOR)
        self._line(self._base, way, REFERENCE, 1)
        self._dot(self._base, way[0], START, 4)
        self._dot(self._base, way[-1], GOAL, 5)

    def draw(self, way: np.ndarray, yaw: float, person: Optional[np.ndarray] = None) -> np.ndarray:
        """The map with the agent's way so far, ``float[points, 3]``, its heading and another walker, ``uint8[height, width, 3]``."""
        image = self._base.copy()
        self._line(image, way, WAY, 1)
        if person is not None:
            self._dot(image, person, PERSON, 4)
        ahead = way[-1] + np.array([-math.sin(yaw), 0.0, -math.cos(yaw)]) * 12 / self._scale
        self._line(image, np.array([way[-1], ahead]), AGENT, 1)
        self._dot(image, way[-1], WAY, 4)
        return image

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Columns and rows, ``float64[..., 2]``, of points of the ground plane."""
        return (points - self._corner) * self._scale

    def _line(self, image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], radius: int) -> None:
        corners = self._pixels(points[:, [0, 2]])
        for one, other in zip(corners[:-1], corners[1:]):
            for share in np.linspace(0, 1, max(2, math.ceil(float(np.abs(other - one).max())) + 1)):
                _paint(image, one + share * (other - one), colour, radius)

    def _dot(self, image: np.ndarray, point: np.ndarray, colour: tuple[int, int, int], radius: int) -> None:
        _paint(image, self._pixels(point[[0, 2]]), colour, radius)


def _paint(image: np.ndarray, pixel: np.ndarray, colour: tuple[int, int, int], radius: int) -> None:
    """Paint a disc."""
    column, row = (round(float(value)) for value in pixel)
    left, top = max(column - radius, 0), max(row - radius, 0)
    part = image[top : row + radius + 1, left : column + radius + 1]
    if part.size:
        rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        part[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2 + 0.5] = colour


def _fill(image: np.ndarray, triangle: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill a triangle, ``float64[3, 2]``."""
    left, top = np.floor(triangle.min(axis=0)).astype(int).clip(0)
    right, bottom = np.ceil(triangle.max(axis=0)).astype(int) + 1
    part = image[top:bottom, left:right]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    (x0, y0), (x1, y1), (x2, y2) = triangle
    sides = [
        (bx - ax) * (rows - ay) - (by - ay) * (columns - ax)
        for (ax, ay), (bx, by) in (((x0, y0), (x1, y1)), ((x1, y1), (x2, y2)), ((x2, y2), (x0, y0)))
    ]
    inside = np.logical_and.reduce([side >= -0.5 for side in sides]) | np.logical_and.reduce([side <= 0.5 for side in sides])
    part[inside] = colour
