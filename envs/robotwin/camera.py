"""One camera for every view and every env of a process: its shadow maps and buffers take a quarter of a gigabyte."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..sapien_reflections import no_reflections


class SharedCamera:
    """A camera that goes to where an image is taken, in any scene; it stays in the scene of its last image.

    An image is the same, to the last bit, as that of a camera that stays where it is.
    """

    def __init__(self) -> None:
        self._cameras: dict[tuple[float, ...], tuple[Any, Any]] = {}
        self._scenes: dict[tuple[float, ...], Any] = {}

    @cached_property
    def _no_reflections(self) -> Any:
        return no_reflections()

    def image(self, scene: Any, like: Any, pose: Any) -> np.ndarray:
        """What a camera ``like`` one of upstream's sees of a scene from a pose, ``uint8[height, width, 3]``."""
        lens = (like.width, like.height, like.fovy, like.near, like.far)
        if lens not in self._cameras:
            names = ("width", "height", "fovy", "near", "far")
            camera = scene.add_camera(name="shared", **dict(zip(names, lens)))
            self._cameras[lens] = camera, camera.entity  # a camera does not hold its entity
        elif self._scenes[lens] is not scene:
            self._scenes[lens].remove_entity(self._cameras[lens][1])
            scene.add_entity(self._cameras[lens][1])
        self._scenes[lens] = scene
        camera, entity = self._cameras[lens]
        entity.set_pose(pose)
        scene.update_render()
        camera.set_texture("BRDFLUT", self._no_reflections)  # each time: another scene makes the camera's renderer anew
        camera.take_picture()
        return (camera.get_picture("Color")[..., :3] * 255).clip(0, 255).astype(np.uint8)  # as upstream's Camera.get_rgba
