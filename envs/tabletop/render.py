"""The renderer that all tabletop envs of a process share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import mujoco

from ..mujoco_shared import Canvas
from .randomization import FLOOR_GEOM
from .scene import RENDERED_GROUPS


class Renderer:
    """Lends all envs one graphics context, which is made for the first image.

    The compiled scenes of all envs have the same meshes, so what was uploaded for one serves all; what differs (poses, colours) is read
    from the env's own model and data. Textures that differ between envs are uploaded when they change.
    """

    def __init__(self) -> None:
        self._canvas: Optional[Canvas] = None
        self._size = (0, 0)
        self._uploaded: dict[int, str] = {}

    def canvas(self, model: mujoco.MjModel, height: int, width: int, textures: Mapping[int, str]) -> Canvas:
        """A canvas that is large enough for an image of that size, in pixels, with what the textures hold now.

        ``textures`` has a name for what is on each of the model's textures that are not as compiled.
        """
        if self._canvas is None or height > self._size[0] or width > self._size[1]:
            self.close()
            self._size = (max(height, self._size[0]), max(width, self._size[1]))
            # Anti-aliasing by samples costs as much again as the rendering itself.
            model.vis.quality.offsamples = 0
            model.vis.global_.offheight, model.vis.global_.offwidth = self._size
            options = mujoco.MjvOption()
            options.geomgroup[:] = 0
            options.geomgroup[list(RENDERED_GROUPS)] = 1
            options.sitegroup[:] = 0
            self._canvas = Canvas(model, self._size, options, FLOOR_GEOM)
        for texture, name in textures.items():
            if self._uploaded.get(texture) != name:
                self._canvas.upload(model, texture)
                self._uploaded[texture] = name
        return self._canvas

    def close(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None
            self._uploaded = {}
