"""The camera of a scene: what the simulator renders, before the photograph that SimplerEnv lays behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien

from ..errors import VlarigError
from ..sapien_reflections import no_reflections


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
        self._shown = [entity for entity in upstream.scene.sub_scenes[0].entities if entity.per_scene_id in shown]

    def render(self, height: int, width: int) -> np.ndarray:
        """The current image, ``uint8[height, width, 3]``."""
        self._check_size(height, width)
        segments = self._taken()
        colours = self._camera.get_picture("Color")
        is_shown = np.zeros(int(segments.max()) + 1, dtype=bool)
        is_shown[[entity.per_scene_id for entity in self._shown if entity.per_scene_id < len(is_shown)]] = True
        pixels = np.flatnonzero(is_shown[segments])  # a tenth of the image
        image = self._photograph.copy()
        image.reshape(-1, 3)[pixels] = colours.reshape(-1, 4)[pixels, :3]
        return image

    def find(self, height: int, width: int, entities: dict[str, Any]) -> dict[str, tuple[np.ndarray, float, float]]:
        """Where the current image, of the size of :meth:`render`, shows SAPIEN's ``entities``.

        Returns:
            Key to the pixels that show it, ``bool[height, width]``, the share of its pixels that nothing hides, and its distance from
            the camera along the viewing direction in m.
        """
        self._check_size(height, width)
        segments = self._taken()
        inverse = self._camera.get_global_pose().inv()
        bodies = {
            each: component
            for each in self._upstream.scene.sub_scenes[0].entities
            for component in each.components
            if isinstance(component, sapien.render.RenderBodyComponent)
        }
        seen = {}
        for key, entity in entities.items():
            mask = segments == entity.per_scene_id
            looks = {each: body.visibility for each, body in bodies.items() if each is not entity}
            for each in looks:
                bodies[each].visibility = 0.0
            alone = np.count_nonzero(self._taken() == entity.per_scene_id)
            for each, visibility in looks.items():
                bodies[each].visibility = visibility
            depth = float((inverse * entity.pose).p[0])  # a camera of SAPIEN looks along its x axis
            seen[key] = (mask, min(np.count_nonzero(mask) / max(alone, 1), 1.0), depth)
        return seen

    def _taken(self) -> np.ndarray:
        """Take an image; the ids of the entities that its pixels show, ``int[height, width]``."""
        self._upstream.scene.sub_scenes[0].update_render()
        self._camera.set_texture("BRDFLUT", self._no_reflections)  # each time: a reset makes the camera's renderer anew
        self._camera.take_picture()
        return self._camera.get_picture("PositionSegmentation")[..., 3]

    def _check_size(self, height: int, width: int) -> None:
        size = self._photograph.shape[:2]
        if (height, width) != size:
            raise VlarigError(
                f"the view was requested in {height} x {width}, and its photograph has {size[0]} x {size[1]}; "
                "render it in that size and have the protocol resize it"
            )
