"""The renderer that all tabletop envs of a process share."""

from __future__ import annotations

from typing import Optional

import mujoco
import numpy as np

from ..mujoco_shared import Canvas
from .scene import DRAWN_GROUPS


class Renderer:
    """Draws any env's moment with one graphics context, which is made for the first image.

    The compiled scenes of all envs have the same meshes and textures, so what was uploaded for one serves all; what differs
    (poses, colours) is read from the env's own model and data.
    """

    def __init__(self) -> None:
        self._canvas: Optional[Canvas] = None
        self._size = (0, 0)

    def render(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, height: int, width: int) -> np.ndarray:
        """The camera's image as :meth:`~vlarig.envs.mujoco_shared.Canvas.draw` draws it, on a canvas that is large enough."""
        if self._canvas is None or height > self._size[0] or width > self._size[1]:
            self.close()
            self._size = (max(height, self._size[0]), max(width, self._size[1]))
            # Anti-aliasing by samples costs as much again as the drawing itself.
            model.vis.quality.offsamples = 0
            model.vis.global_.offheight, model.vis.global_.offwidth = self._size
            options = mujoco.MjvOption()
            options.geomgroup[:] = 0
            options.geomgroup[list(DRAWN_GROUPS)] = 1
            options.sitegroup[:] = 0
            self._canvas = Canvas(model, self._size, options)
        return self._canvas.draw(model, qpos, camera, height, width)

    def close(self) -> None:
        """Free the graphics context."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None
