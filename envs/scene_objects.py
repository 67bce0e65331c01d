"""What an image shows, by the simulator's truth: the labels of vision-language data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from .episode import Camera

#: Pixels of the smallest object that is described. Below that a box says more of the grid of pixels than of the object.
FEWEST_PIXELS = 12


@dataclass(frozen=True)
class SceneObject:
    """An object in an image. Two objects may have the same name.

    Attributes:
        name: As an instruction would call it: ``red cube``, ``black bowl``.
        kind: The noun of the name: ``cube``, ``bowl``.
        colour: Its colour, where the name begins with it; empty where the simulator knows of none.
        box: Left, top, right and bottom of the pixels that show it, in pixels of the image as the policy sees it; right and bottom
            are one past the last pixel, so that a box of all the image is ``(0, 0, width, height)``.
        position: Its centre in the frame of the robot's state, in m.
        depth: How far its centre is from the camera along the viewing direction, in m.
        visible: Share, 0 to 1, of its pixels that the image shows: nothing hides them, and they are within its edges.
        role: What it is to the episode's goal now: ``object`` what is to be moved now, ``goal`` where to; empty for all else,
            and where the goal has neither.
    """

    name: str
    kind: str
    colour: str
    box: tuple[float, float, float, float]
    position: tuple[float, float, float]
    depth: float
    visible: float
    role: str = ""


def box_of(mask: np.ndarray) -> Optional[tuple[float, float, float, float]]:
    """The box about the pixels of a mask, ``bool[height, width]``; ``None`` where they are fewer than :data:`FEWEST_PIXELS`."""
    if np.count_nonzero(mask) < FEWEST_PIXELS:
        return None
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def objects_as_seen(objects: Iterable[SceneObject], camera: Camera) -> tuple[SceneObject, ...]:
    """Objects with boxes in the image of ``camera.as_drawn``, with boxes in the one that :func:`~vlarig.envs.images.as_seen` makes.

    What that image cuts off is left out.
    """
    boxes = ((each, _box_as_seen(each.box, camera)) for each in objects)
    return tuple(replace(each, box=box) for each, box in boxes if box is not None)


def _box_as_seen(box: tuple[float, float, float, float], camera: Camera) -> Optional[tuple[float, float, float, float]]:
    drawn = camera.as_drawn
    left, top, right, bottom = box
    if camera.mirror:
        left, right = drawn.width - right, drawn.width - left
    # Shares of the rendered image, about its centre; a crop enlarges them by one over its side.
    side = math.sqrt(camera.crop)
    across = [(x / drawn.width - 0.5) / side + 0.5 for x in (left, right)]
    down = [(y / drawn.height - 0.5) / side + 0.5 for y in (top, bottom)]
    left, right = (min(max(x, 0.0), 1.0) * camera.width for x in across)
    top, bottom = (min(max(y, 0.0), 1.0) * camera.height for y in down)
    return (left, top, right, bottom) if (right - left) * (bottom - top) >= FEWEST_PIXELS else None
