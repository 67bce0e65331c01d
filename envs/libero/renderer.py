"""Pictures of one task's scene, drawn as upstream draws them, for all slots that play the task."""

from __future__ import annotations

import mujoco
import numpy as np

#: Size of upstream's drawing buffer, and its groups of geoms: without collision shapes, with visual ones (robosuite 1.4.0,
#: utils/binding_utils.py, MjRenderContextOffscreen; environments/base.py, _reset_internal).
BUFFER = (480, 640)
COLLISION_GROUP, VISUAL_GROUP = 0, 1

#: Most geoms in a picture (robosuite 1.4.0, utils/binding_utils.py).
MAX_GEOMS = 1000


class Renderer:
    """Draws moments of a model with a graphics context of its own.

    Args:
        model: The compiled model; its textures and meshes are uploaded once.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._scratch = mujoco.MjData(model)
        self._gl = mujoco.GLContext(BUFFER[1], BUFFER[0])
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[COLLISION_GROUP] = 0
        self._options.geomgroup[VISUAL_GROUP] = 1
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value

    def draw(self, qpos: np.ndarray, camera: str, height: int, width: int) -> np.ndarray:
        """The camera's picture, ``uint8[height, width, 3]``, upright.

        Args:
            qpos: Generalised positions of the moment, ``float64[nq]``; all else is read from the model as it is now.
            camera: Name of a camera of the model.
            height: In pixels, at most :data:`BUFFER`'s.
            width: In pixels, at most :data:`BUFFER`'s.
        """
        self._gl.make_current()
        self._scratch.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._scratch)
        mujoco.mj_comPos(self._model, self._scratch)
        mujoco.mj_camlight(self._model, self._scratch)
        self._view.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._scratch, self._options, None, self._view, everything, self._scene)
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, self._scene, self._context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, area, self._context)
        return picture[::-1]

    def close(self) -> None:
        """Free the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
