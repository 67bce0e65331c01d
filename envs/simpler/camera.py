"""The camera of a scene: what the simulator renders, before the photograph that SimplerEnv lays behind it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import sapien

from ..errors import VlarigError
from ..sapien_reflections import no_reflections
from .shaders import LIT, UNLIT


class OverlaidCamera:
    """Renders the robot and the objects over the photograph of the real scene.

    Args:
        upstream: The scene's ``BaseBridgeEnv``.
        name: Upstream's name of the camera.
    """

    def __init__(self, upstream: Any, name: str) -> None:
        self._upstream = upstream
        (self._camera,) = upstream.scene.sensors[name].camera._render_cameras
        self._no_reflections = no_reflections()
        self._photograph = upstream._rgb_overlay_images[name].numpy()
        shown = set(upstream._segmentation_ids_to_keep.tolist())
        entities = upstream.scene.sub_scenes[0].entities
        self._bodies = {
            entity: component
            for entity in entities
            for component in entity.components
            if isinstance(component, sapien.render.RenderBodyComponent)
        }
        self._shown = {entity for entity in entities if entity.per_scene_id in shown}

    def render(self, height: int, width: int) -> np.ndarray:
        """The current image, ``uint8[height, width, 3]``."""
        self._check_size(height, width)
        self._take(self._shown)
        colours = self._camera.get_picture("Color").reshape(-1, 4)
        pixels = np.flatnonzero(colours[:, 3] > 0)  # a tenth of the image
        if colours[pixels, 3].min(initial=255) < 255:  # what is behind is seen through them
            self._take(self._bodies)
            colours = self._camera.get_picture("Color").reshape(-1, 4)
            pixels = np.flatnonzero(np.isin(self._segments(), [entity.per_scene_id for entity in self._shown]))
        image = self._photograph.copy()
        image.reshape(-1, 3)[pixels] = colours[pixels, :3]
        return image

    def find(self, height: int, width: int, entities: dict[str, Any]) -> dict[str, tuple[np.ndarray, float, float]]:
        """Where the current image, of the size of :meth:`render`, shows SAPIEN's ``entities``.

        Returns:
            Key to the pixels that show it, ``bool[height, width]``, the share of its pixels that nothing hides, and its distance from
            the camera along the viewing direction in m.
        """
        self._check_size(height, width)
        self._take(self._shown)
        segments = self._segments()
        inverse = self._camera.get_global_pose().inv()
        seen = {}
        for key, entity in entities.items():
            mask = segments == entity.per_scene_id
            looks = {each: body.visibility for each, body in self._bodies.items() if each is not entity}
            for each in looks:
                self._bodies[each].visibility = 0.0
            self._take(self._shown)
            alone = np.count_nonzero(self._segments() == entity.per_scene_id)
            for each, visibility in looks.items():
                self._bodies[each].visibility = visibility
            depth = float((inverse * entity.pose).p[0])  # a camera of SAPIEN looks along its x axis
            seen[key] = (mask, min(np.count_nonzero(mask) / max(alone, 1), 1.0), depth)
        return seen

    def _take(self, lit: Collection[sapien.Entity]) -> None:
        """Take an image, with the colours of these entities."""
        self._upstream.scene.sub_scenes[0].update_render()
        # Each time: a reset makes the camera's renderer and what it renders anew.
        self._camera.set_texture("BRDFLUT", self._no_reflections)
        for entity, body in self._bodies.items():
            mode, before = LIT if entity in lit else UNLIT, body.shading_mode
            body.shading_mode = mode
            if mode != before:  # which the renderer notices only when something appears or disappears
                look = body.visibility
                body.visibility = float(look == 0.0)
                body.visibility = look
        self._camera.take_picture()

    def _segments(self) -> np.ndarray:
        """The ids of the entities that the image's pixels show, ``int[height, width]``."""
        return self._camera.get_picture("PositionSegmentation")[..., 3]

    def _check_size(self, height: int, width: int) -> None:
        size = self._photograph.shape[:2]
        if (height, width) != size:
            raise VlarigError(
                f"the view was requested in {height} x {width}, and its photograph has {size[0]} x {size[1]}; "
                "render it in that size and have the protocol resize it"
            )
