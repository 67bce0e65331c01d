"""The renderer that all tabletop envs of a process share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Optional

import mujoco
import numpy as np

from ..mujoco_shared import Canvas, ObjectGeoms
from ..scene_objects import SceneObject
from .randomization import FLOOR_GEOM
from .scene import RENDERED_GROUPS


class Renderer:
    """Renders any env's state with one graphics context, which is made for the first image.

    The compiled scenes of all envs have the same meshes, so what was uploaded for one serves all; what differs (poses, colours) is read
    from the env's own model and data. Textures that differ between envs are uploaded when they change.
    """

    def __init__(self) -> None:
        self._canvas: Optional[Canvas] = None
        self._size = (0, 0)
        self._uploaded: dict[int, str] = {}

    def render(
        self,
        model: mujoco.MjModel,
        qpos: np.ndarray,
        camera: str,
        height: int,
        width: int,
        textures: Mapping[int, str] = MappingProxyType({}),
    ) -> np.ndarray:
        """The camera's image as :meth:`~vlarig.envs.mujoco_shared.Canvas.render` renders it, on a canvas that is large enough.

        ``textures`` has a name for what is on each of the model's textures that are not as compiled.
        """
        return self._fitting(model, height, width, textures).render(model, qpos, camera, height, width)

    def find(
        self,
        model: mujoco.MjModel,
        qpos: np.ndarray,
        camera: str,
        height: int,
        width: int,
        objects: Sequence[ObjectGeoms],
        textures: Mapping[int, str] = MappingProxyType({}),
    ) -> list[SceneObject]:
        """What of ``objects`` that image shows, see :meth:`~vlarig.envs.mujoco_shared.Canvas.find`."""
        return self._fitting(model, height, width, textures).find(model, qpos, camera, height, width, objects)

    def _fitting(self, model: mujoco.MjModel, height: int, width: int, textures: Mapping[int, str]) -> Canvas:
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
