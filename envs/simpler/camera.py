"""The camera of a scene: what the simulator draws, before the photograph that SimplerEnv lays behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import VlarigError


class OverlaidCamera:
    """Draws the robot and the objects over the photograph of the real scene.

    Args:
        upstream: The scene's ``BaseBridgeEnv``.
        name: Upstream's name of the camera.
    """

    def __init__(self, upstream: Any, name: str) -> None:
        self._upstream = upstream
        (self._camera,) = upstream.scene.sensors[name].camera._render_cameras
        self._photograph = upstream._rgb_overlay_images[name].numpy()
        shown = set(upstream._segmentation_ids_to_keep.tolist())
        self._shown = [entity for entity in upstream.scene.sub_scenes[0].entities if entity.per_scene_id in shown]

    def draw(self, height: int, width: int) -> np.ndarray:
        """The picture of this moment, ``uint8[height, width, 3]``.

        Raises:
            VlarigError: The size is not the photograph's.
        """
        size = self._photograph.shape[:2]
        if (height, width) != size:
            raise VlarigError(
                f"the view was requested in {height} x {width}, and its photograph has {size[0]} x {size[1]}; "
                "draw it in that size and have the protocol resize it"
            )
        self._upstream.scene.sub_scenes[0].update_render()
        self._camera.take_picture()
        colours = self._camera.get_picture("Color")
        segments = self._camera.get_picture("PositionSegmentation")[..., 3]
        is_shown = np.zeros(int(segments.max()) + 1, dtype=bool)
        is_shown[[entity.per_scene_id for entity in self._shown if entity.per_scene_id < len(is_shown)]] = True
        pixels = np.flatnonzero(is_shown[segments])  # a tenth of the picture
        picture = self._photograph.copy()
        picture.reshape(-1, 3)[pixels] = colours.reshape(-1, 4)[pixels, :3]
        return picture
