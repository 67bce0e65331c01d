"""The renderer that all tabletop slots of a process share."""

from __future__ import annotations

from typing import Optional

import mujoco
import numpy as np

from .scene import DRAWN_GROUPS


class Renderer:
    """Draws any slot's moment with one graphics context, which is made when the first image is asked for.

    The compiled scenes of all slots have the same meshes and textures, so what was uploaded for one serves all; what differs
    (poses, colours) is read from the slot's own model and data. Positions are computed in a scratch ``MjData``, so that drawing
    leaves the slot's simulation untouched, and shows its ``qpos`` of this moment.
    """

    def __init__(self) -> None:
        self._context: Optional[mujoco.MjrContext] = None
        self._size = (0, 0)

    def render(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, height: int, width: int) -> np.ndarray:
        """The camera's image, ``uint8[height, width, 3]``, upright.

        Args:
            model: The slot's model.
            qpos: The slot's generalised positions, ``float64[nq]``.
            camera: Name of a camera of the model.
            height: Image height in pixels.
            width: Image width in pixels.
        """
        self._prepare(model, height, width)
        self._scratch.qpos[:] = qpos
        mujoco.mj_kinematics(model, self._scratch)
        mujoco.mj_comPos(model, self._scratch)
        mujoco.mj_camlight(model, self._scratch)
        self._view.fixedcamid = model.camera(camera).id
        mujoco.mjv_updateScene(
            model, self._scratch, self._options, None, self._view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, self._scene, self._context)
        image = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, area, self._context)
        return np.ascontiguousarray(image[::-1])

    def _prepare(self, model: mujoco.MjModel, height: int, width: int) -> None:
        """Make the context, or a larger one; what ``MUJOCO_GL`` names decides how (``osmesa`` on CPUs, ``egl`` on GPUs)."""
        if self._context is None or height > self._size[0] or width > self._size[1]:
            self.close()
            self._size = (max(height, self._size[0]), max(width, self._size[1]))
            # Anti-aliasing by samples costs as much again as the drawing itself.
            model.vis.quality.offsamples = 0
            model.vis.global_.offheight, model.vis.global_.offwidth = self._size
            self._gl = mujoco.GLContext(self._size[1], self._size[0])
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
            self._scene = mujoco.MjvScene(model, maxgeom=200)
            self._scratch = mujoco.MjData(model)
            self._options = mujoco.MjvOption()
            self._options.geomgroup[:] = 0
            self._options.geomgroup[list(DRAWN_GROUPS)] = 1
            self._options.sitegroup[:] = 0
            self._view = mujoco.MjvCamera()
            self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        else:
            self._gl.make_current()

    def close(self) -> None:
        """Free the graphics context."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._context = None
