"""What the adapters on MuJoCo share: rendering, reading the state that decides the future, and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

import mujoco
import numpy as np

from .mujoco_view import View
from .scene_objects import SceneObject, box_of

#: Name of robosuite's log, with lines on optional packages that would be repeated in every worker.
ROBOSUITE_LOG = "robosuite_logs"

#: Most geoms in an image (robosuite 1.4.0, utils/binding_utils.py).
MAX_GEOMS = 1000


#: How much wider an image is rendered to see how much of an object lies beyond the edge of another.
WIDER = 3.0


@dataclass(frozen=True, eq=False)
class ObjectGeoms:
    """What may be found in an image.

    Attributes:
        name: As an instruction would call it.
        kind: The noun of the name.
        colour: The colour in the name, or the empty string.
        geoms: Ids of its geoms, ``int[geoms]``.
        role: What it is to the goal, see :class:`~.scene_objects.SceneObject`.
    """

    name: str
    kind: str
    colour: str
    geoms: np.ndarray
    role: str = ""


class Canvas:
    """Renders with a graphics context of its own; ``MUJOCO_GL`` selects the renderer (``osmesa`` on CPUs, ``egl`` on GPUs).

    Positions are computed in a scratch ``MjData``, so that rendering leaves the simulation untouched.

    Args:
        model: A compiled model; its textures and meshes are uploaded once, and serve all models that have the same.
        size: Height and width of the largest image, in pixels.
        options: What is rendered.
        floor: Name of an opaque, level plane as its file has it; where it is behind all of an image, no sky is rendered.
    """

    def __init__(
        self, model: mujoco.MjModel, size: tuple[int, int], options: mujoco.MjvOption, floor: str | None = None
    ) -> None:
        self._scratch = mujoco.MjData(model)
        self._gl = mujoco.GLContext(size[1], size[0])
        self._gl.make_current()
        if not model.light_castshadow.any():
            model.vis.quality.shadowsize = 0  # no map of 4096 x 4096 for shadows that no light casts
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._options = options
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        self._floor = None if floor is None else model.geom(floor).id
        self._culls = not model.light_castshadow.any()  # a shadow may fall into the view from beyond it
        flat = np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE.value, mujoco.mjtGeom.mjGEOM_BOX.value))
        shiny: list[int] = np.flatnonzero(flat & (model.geom_matid >= 0)).tolist()
        self._mirrors = [geom for geom in shiny if model.mat_reflectance[model.geom_matid[geom]] > 0]
        self._unseen = list(options.geomgroup).index(0)

    def render(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, height: int, width: int) -> np.ndarray:
        """The named camera's image, ``uint8[height, width, 3]``, upright.

        ``model`` is the model as it is now, with poses of static bodies and colours; ``qpos`` generalised positions, ``float64[nq]``.
        """
        self._look(model, qpos, camera, width / height)
        return self._rendered(height, width)

    def find(
        self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, height: int, width: int, objects: Sequence[ObjectGeoms]
    ) -> list[SceneObject]:
        """Those of ``objects`` that the camera's image shows, to the pixel: what hides what is decided by rendering them.

        An object's ``visible`` compares the image with one of the object alone, a wider one at the image's edge. The first four
        arguments are :meth:`render`'s.
        """
        self._look(model, qpos, camera, width / height)
        geoms = self._scene.geoms[: self._scene.ngeom]
        ids = [geom.segid for geom in geoms]
        owner = np.full(model.ngeom, -1)
        for index, obj in enumerate(objects):
            owner[obj.geoms] = index
        is_geom = mujoco.mjtObj.mjOBJ_GEOM.value
        owners = np.array([owner[geom.objid] if geom.objtype == is_geom and geom.objid >= 0 else -1 for geom in geoms])
        of_id = np.full(max(ids, default=-1) + 2, -1)  # one more for the background, whose id is -1
        of_id[np.array(ids) + 1] = owners
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT.value, mujoco.mjtRndFlag.mjRND_IDCOLOR.value)
        self._scene.flags[list(flags)] = 1
        try:
            seen = of_id[self._segments(height, width)]
            found = []
            for index, obj in enumerate(objects):
                mask = seen == index
                box = box_of(mask)
                if box is None:
                    continue
                for geom, its, number in zip(geoms, owners, ids):
                    geom.segid = number if its == index else -1  # which is not rendered
                at_the_edge = box[0] == 0 or box[1] == 0 or box[2] == width or box[3] == height
                alone = self._count_beyond(height, width) if at_the_edge else np.count_nonzero(self._segments(height, width))
                visible = np.count_nonzero(mask) / max(alone, 1)
                found.append(self._scene_object(model.camera(camera).id, obj, box, min(visible, 1.0)))
        finally:
            self._scene.flags[list(flags)] = 0
        return found

    def _scene_object(self, camera: int, obj: ObjectGeoms, box: Any, visible: float) -> SceneObject:
        position = self._scratch.geom_xpos[obj.geoms].mean(axis=0)
        backwards = self._scratch.cam_xmat[camera].reshape(3, 3)[:, 2]  # a camera of MuJoCo looks along its -z axis
        depth = float((self._scratch.cam_xpos[camera] - position) @ backwards)
        x, y, z = (float(number) for number in position)
        return SceneObject(obj.name, obj.kind, obj.colour, box, (x, y, z), depth, visible, obj.role)

    def _look(self, model: mujoco.MjModel, qpos: np.ndarray, camera: str, aspect: float) -> None:
        """Prepare the scene at ``qpos`` for the camera, without what is out of its view."""
        scratch = self._scratch
        scratch.qpos[:] = qpos
        mujoco.mj_kinematics(model, scratch)
        mujoco.mj_comPos(model, scratch)
        mujoco.mj_camlight(model, scratch)
        self._camera.fixedcamid = model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        view = View.of(model, scratch, self._camera.fixedcamid, aspect)
        groups = model.geom_group.copy()
        if self._culls:
            model.geom_group[self._missed(model, view)] = self._unseen
        mujoco.mjv_updateScene(model, scratch, self._options, None, self._camera, everything, self._scene)
        model.geom_group[:] = groups
        if self._floor is not None:
            hidden = view.is_filled_by(scratch.geom_xpos[self._floor], model.geom_size[self._floor, :2])
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX.value] = not hidden

    def _missed(self, model: mujoco.MjModel, view: View) -> np.ndarray:
        """Which geoms the view does not show, by itself or in a mirror, ``bool[ngeom]``."""
        missed = (model.geom_rbound > 0) & view.misses(self._scratch.geom_xpos, model.geom_rbound)  # a plane has no bound
        for mirror in self._mirrors:
            missed &= view.misses(self._mirrored(model, mirror), model.geom_rbound)
        return missed

    def _mirrored(self, model: mujoco.MjModel, mirror: int) -> np.ndarray:
        """Where a mirror shows the geoms' centres, ``float64[ngeom, 3]``; a box's is its upper side (MuJoCo 3.3.2, render_gl3.c)."""
        centres, normal = self._scratch.geom_xpos, self._scratch.geom_xmat[mirror].reshape(3, 3)[:, 2]
        height = model.geom_size[mirror, 2] if model.geom_type[mirror] == mujoco.mjtGeom.mjGEOM_BOX.value else 0.0
        return centres - 2 * ((centres - centres[mirror]) @ normal - height)[:, None] * normal

    def _rendered(self, height: int, width: int) -> np.ndarray:
        area = mujoco.MjrRect(0, 0, width, height)
        image = np.empty((height, width, 3), dtype=np.uint8)
        self._gl.make_current()
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, area, self._context)
        return np.ascontiguousarray(image[::-1])

    def upload(self, model: mujoco.MjModel, texture: int) -> None:
        """Render with what the model's texture of that number holds now."""
        self._gl.make_current()
        mujoco.mjr_uploadTexture(model, self._context, texture)

    def _count_beyond(self, height: int, width: int) -> float:
        """Pixels that what is rendered takes, with those beyond the edges of the image; from an image of :data:`WIDER` its angle."""
        views = self._scene.camera  # one for each eye
        kept = [(each.frustum_center, each.frustum_width, each.frustum_bottom, each.frustum_top) for each in views]
        try:
            self._set_frustum([tuple(WIDER * side for side in each) for each in kept])
            return np.count_nonzero(self._segments(height, width)) * WIDER**2
        finally:
            self._set_frustum(kept)

    def _set_frustum(self, sides: list[tuple[float, ...]]) -> None:
        for each, (center, across, bottom, top) in zip(self._scene.camera, sides):
            each.frustum_center, each.frustum_width = center, across
            each.frustum_bottom, each.frustum_top = bottom, top

    def _segments(self, height: int, width: int) -> np.ndarray:
        """One more than the id of what each pixel shows, ``int64[height, width]``; 0 is the background."""
        return self._rendered(height, width).astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])

    def close(self) -> None:
        self._free()


def _free(gl: mujoco.GLContext, context: mujoco.MjrContext) -> None:
    """Free a canvas's context; another canvas's textures have the same numbers, so its own must be the current one."""
    gl.make_current()
    context.free()
    gl.free()


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


def _mujoco_library() -> Any:
    """MuJoCo's C library; its Python has no names for the calls of its C API that are made here (mujoco.h, 3.3.2)."""
    folder = Path(str(mujoco.__file__)).parent
    return ctypes.CDLL(str(next(folder.glob("libmujoco.*"))))


@contextmanager
def keep_no_files() -> Iterator[None]:
    """From here on MuJoCo's compiler keeps no decoded meshes and textures.

    This must come before the first compilation: MuJoCo 3.3.2 hangs or crashes when a cache that holds something is made smaller.
    """
    library = _mujoco_library()
    library.mj_globalCache.restype = ctypes.c_void_p
    library.mj_setCacheSize.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.mj_setCacheSize(library.mj_globalCache(), 0)
    yield


def keeps_files(make: Callable[[bool], Any]) -> bool:
    """Whether the compiler keeps ten megabytes or more unless :func:`keep_no_files` forbids it.

    Args:
        make: Compiles something with meshes or textures; its argument is whether files may be kept.
    """
    sizes = []
    for keeping in (True, False):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            made = make(keeping)
            forget_compilation()
            resident = Path("/proc/self/statm").read_text().split()[1]
            os.write(writing, resident.encode())
            os._exit(0 if made else 1)
        os.waitpid(child, 0)
        os.close(writing)
        sizes.append(int(os.read(reading, 64)) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        os.close(reading)
    return sizes[0] - sizes[1] > 10.0


def forget_compilation() -> None:
    """Give back what MuJoCo keeps of the last compilation, the parsed XML with its meshes and textures: twice the model."""
    _mujoco_library().mj_freeLastXML()
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def bare_steps(model: mujoco.MjModel, data: mujoco.MjData, count: int) -> Callable[[], Any]:
    """That many physics steps, on a copy of the positions and velocities."""
    copy = mujoco.MjData(model)
    copy.qpos[:], copy.qvel[:] = data.qpos, data.qvel
    return partial(mujoco.mj_step, model, copy, count)
