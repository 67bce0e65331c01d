"""What the adapters on MuJoCo share: drawing a moment, reading the state that decides the future."""

from __future__ import annotations

import mujoco
import numpy as np

#: Most geoms in a picture (robosuite 1.4.0, utils/binding_utils.py).
MAX_GEOMS = 1000


class Canvas:
    """Draws moments with a graphics context of its own; ``MUJOCO_GL`` selects the renderer (``osmesa`` on CPUs, ``egl`` on GPUs).

    Positions are computed in a scratch ``MjData``, so that drawing leaves the simulation untouched.

    Args:
        model: A compiled model; its textures and meshes are uploaded once, and serve all models that have the same.
        size: Height and width of the largest picture, in pixels.
        options: What is drawn.
    """

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int], options: mujoco.MjvOption) -> None:
        self._scratch = mujoco.MjData(model)
        self._gl = mujoco.GLContext(size[1], size[0])
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._options = options
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value

    def draw(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, height: int, width: int) -> np.ndarray:
        """The camera's picture, ``uint8[height, width, 3]``, upright.

        Args:
            model: The model as it is now: poses of its static bodies, colours.
            qpos: Generalised positions of the moment, ``float64[nq]``.
            camera: Name of a camera of the model.
            height: In pixels.
            width: In pixels.
        """
        self._gl.make_current()
        self._scratch.qpos[:] = qpos
        mujoco.mj_kinematics(model, self._scratch)
        mujoco.mj_comPos(model, self._scratch)
        mujoco.mj_camlight(model, self._scratch)
        self._view.fixedcamid = model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, self._scratch, self._options, None, self._view, everything, self._scene)
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, self._scene, self._context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, area, self._context)
        return np.ascontiguousarray(picture[::-1])

    def close(self) -> None:
        """Free the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def integration_state(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """All of the simulation that decides its future, as one ``float64`` array."""
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def as_slice(neighbours: list[int]) -> slice:
    """The slice that takes what the ascending ``neighbours`` take."""
    first, last = int(neighbours[0]), int(neighbours[-1])
    assert [int(index) for index in neighbours] == list(range(first, last + 1)), f"{neighbours} are no neighbours"
    return slice(first, last + 1)
