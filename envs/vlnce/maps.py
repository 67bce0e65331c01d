"""Maps from above, for films: the walkable surface, the way that an instruction describes, and the agent's own."""

from __future__ import annotations

import math
from typing import Optional

import numpy as np
from PIL import Image, ImageDraw

#: Pixels of a map's sides.
SIZE = 320

#: Pixels around what is rendered, and of a line's width.
MARGIN, LINE = 10, 3

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
        self._base = Image.new("RGB", (SIZE, SIZE), VOID)
        pen = ImageDraw.Draw(self._base)
        for triangle in triangles:
            pen.polygon(self._pixels(triangle), FLOOR, FLOOR)
        pen.line(self._pixels(way[:, [0, 2]]), REFERENCE, LINE, "curve")
        pen.circle(self._pixels(way[0, [0, 2]])[0], 4, START)
        pen.circle(self._pixels(way[-1, [0, 2]])[0], 5, GOAL)

    def render(self, way: np.ndarray, yaw: float, person: Optional[np.ndarray] = None) -> np.ndarray:
        """The map with the agent's way so far, ``float[points, 3]``, its heading and another walker, ``uint8[height, width, 3]``."""
        image = self._base.copy()
        pen = ImageDraw.Draw(image)
        pen.line(self._pixels(way[:, [0, 2]]), WAY, LINE, "curve")
        if person is not None:
            pen.circle(self._pixels(person[[0, 2]])[0], 4, PERSON)
        here = way[-1, [0, 2]]
        ahead = here - np.array([math.sin(yaw), math.cos(yaw)]) * 12 / self._scale
        pen.line(self._pixels(np.array([here, ahead])), AGENT, LINE)
        pen.circle(self._pixels(here)[0], 4, WAY)
        return np.array(image)

    def _pixels(self, points: np.ndarray) -> list[tuple[float, ...]]:
        """Columns and rows of points of the ground plane, ``float[..., 2]``."""
        return [tuple(each) for each in ((points - self._corner) * self._scale).reshape(-1, 2).tolist()]
