"""A house rendered with packages from PyPI alone: a scan's ``.glb`` without lights, by OpenGL on EGL, and its walkable surface.

habitat-sim renders scans without lights by default too (habitat-sim@57ee494, src/esp/sim/SimulatorConfiguration.h,
``sceneLightSetupKey``); its rasteriser and its mipmaps round otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any, Optional

import moderngl
import numpy as np
import trimesh.creation

from ..errors import VlarigError
from .navmesh import NavMesh
from .scan import Part, read_scan
from .world import DEFAULT_AGENT, Agent, Lens, World

#: Environment variable with the beginning of the name of the renderer that renders, and the software renderer that is its default.
RENDERER_VARIABLE, SOFTWARE = "VLARIG_EGL_RENDERER", "llvmpipe"

#: Most devices of EGL that are tried.
DEVICES = 16

#: Planes of the camera, metres (habitat-sim@57ee494, src/esp/sensor/VisualSensor.h).
NEAR, FAR = 0.01, 1000.0

#: Another walker: radius and height of the rings of the legs, the coat and the head, metres, each with its colour, RGB.
FIGURE = (
    (((0.0, 0.0), (0.16, 0.0), (0.16, 0.8)), (20, 40, 120)),
    (((0.16, 0.8), (0.2, 0.8), (0.2, 1.35), (0.07, 1.45)), (40, 90, 230)),
    (((0.07, 1.45), (0.12, 1.54), (0.12, 1.62), (0.07, 1.69), (0.0, 1.7)), (225, 180, 150)),
)

#: Corners of such a ring.
CORNERS = 16

#: The shaders: of vertices and of pixels.
VERTEX = """
#version 330
uniform mat4 camera; in vec3 position; in vec2 uv; in vec3 colour; out vec2 place; out vec3 tint;
void main() { gl_Position = camera * vec4(position, 1.0); place = uv; tint = colour; }
"""
FRAGMENT = """
#version 330
uniform sampler2D image; in vec2 place; in vec3 tint; out vec4 shown;
void main() { shown = vec4(texture(image, place).rgb * tint, 1.0); }
"""


class Canvas:
    """A graphics context with its framebuffers, for all worlds of a process.

    Attributes:
        context: The context; whoever uses it enters it as a context manager, for another may be the current one.
        program: Renders textured triangles; its uniform ``camera`` maps metres to clip space.
        figure: Another walker, at the origin.
    """

    def __init__(self) -> None:
        self.context: Any = _open_context(os.environ.get(RENDERER_VARIABLE) or SOFTWARE)
        with self.context:
            self.program: Any = self.context.program(VERTEX, FRAGMENT)
            self.figure = Mesh(self, _figure(), {})
        self._frames: dict[tuple[int, int], Any] = {}

    def render(self, rendered: list[tuple[Mesh, np.ndarray]], height: int, width: int) -> np.ndarray:
        """An image, ``uint8[height, width, 3]``, upright, on black.

        ``rendered`` are meshes, each with the ``float64[4, 4]`` from its metres to clip space.
        """
        size = (width, height)
        with self.context:
            if size not in self._frames:
                buffers = [self.context.renderbuffer(size, 4)], self.context.depth_renderbuffer(size)
                self._frames[size] = self.context.framebuffer(*buffers)
            self._frames[size].use()
            self._frames[size].clear(0.0, 0.0, 0.0, 1.0)
            # Backs are left out, of materials with two sides too, and of what is equally near the first is seen
            # (habitat-sim@57ee494, src/esp/gfx/Renderer.cpp, ``setupMagnumFeatures``, and OpenGL's default).
            self.context.enable_only(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
            self.context.depth_func = "<"
            for mesh, camera in rendered:
                mesh.render(camera)
            pixels = self._frames[size].read(components=3, alignment=1)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[::-1].copy()

    def free(self, held: list[Any]) -> None:
        """Free objects in graphics memory, and give the system what a software renderer had for them."""
        with self.context:
            for obj in held:
                obj.release()
            for frame in self._frames.values():
                frame.clear()  # llvmpipe keeps what it rendered last until it renders again
            self.context.finish()
        with contextlib.suppress(AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


class Mesh:
    """Triangles in graphics memory; each part is rendered, or left out where it is beside the image.

    Args:
        canvas: What renders them; its context is the current one.
        parts: The triangles.
        textures: The textures of the parts by number; they are the mesh's from here on.
    """

    def __init__(self, canvas: Canvas, parts: list[Part], textures: dict[int, Any]) -> None:
        context, self._canvas = canvas.context, canvas
        white = context.texture((1, 1), 3, b"\xff\xff\xff", alignment=1)
        self._rendered: list[tuple[Any, Any]] = []
        self._held: list[Any] = [white, *textures.values()]
        for part in parts:
            buffers = [context.buffer(each) for each in (part.positions, part.uv, part.colours, part.triangles)]
            layout = list(zip(buffers, ("3f", "2f", "3f1 x1"), ("position", "uv", "colour")))
            array = context.vertex_array(canvas.program, layout, buffers[3])
            self._rendered.append((array, textures.get(part.texture, white)))
            self._held += [array, *buffers]
        low, high = (np.array([side(part.positions, axis=0) for part in parts], np.float64) for side in (np.min, np.max))
        self._middle, self._half = (high + low) / 2.0, (high - low) / 2.0

    def render(self, camera: np.ndarray) -> None:
        """Render what may be in the image, with the canvas's context as the current one.

        ``camera`` is from metres to clip space, ``float64[4, 4]``.
        """
        self._canvas.program["camera"].write(camera.T.astype(np.float32).tobytes())
        sides = np.concatenate([camera[3] + camera[:3], camera[3] - camera[:2]])
        inmost = self._middle @ sides[:, :3].T + self._half @ np.abs(sides[:, :3]).T + sides[:, 3]
        for index in np.flatnonzero((inmost > -1e-3).all(axis=1)):
            array, texture = self._rendered[index]
            texture.use(0)
            array.render()

    def close(self) -> None:
        self._canvas.free(self._held)


class LiteWorld(World):
    """A scan, ``<scan>.glb``, with the walkable surface beside it.

    The surface is ``<scan>.navmesh`` for an agent of 1.5 m height and 0.1 m radius, habitat's default, and
    ``<scan>.h<height>_r<radius>.navmesh`` for another.

    Args:
        scene: The ``.glb``.
        agent: Whose surface it is.
        canvas: Renders it, and other worlds.
    """

    def __init__(self, scene: Path, agent: Agent, canvas: Canvas) -> None:
        self.surface = _read_surface(scene, agent)
        self._canvas = canvas
        parts, images = read_scan(scene)
        with canvas.context:
            self._mesh = Mesh(canvas, parts, {number: _upload(canvas, each) for number, each in enumerate(images)})

    def render(
        self, position: np.ndarray, yaw: float, lens: Lens, height: int, width: int, person: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """What the agent sees, ``uint8[height, width, 3]``; another walker is a figure of 1.7 m in blue."""
        camera = _camera(np.asarray(position, np.float64), yaw, lens, height, width)
        rendered = [(self._mesh, camera)]
        if person is not None:
            pose = np.eye(4)
            pose[:3, 3] = person
            rendered.append((self._canvas.figure, camera @ pose))
        return self._canvas.render(rendered, height, width)

    def close(self) -> None:
        """Free the graphics memory; the canvas stays."""
        self._mesh.close()


def _open_context(renderer: str) -> Any:
    """A context on the first of EGL's devices whose renderer's name begins so."""
    found: list[str] = []
    try:
        for device in range(DEVICES):
            context = moderngl.create_context(standalone=True, backend="egl", device_index=device)
            found.append(context.info["GL_RENDERER"])
            if found[-1].startswith(renderer):
                return context
            context.release()
    except Exception as error:  # glcontext raises nothing more particular, for a missing library or device
        found.append(str(error))
    raise VlarigError(
        f"no device of EGL renders with {renderer!r} (found: {'; '.join(found)}); set {RENDERER_VARIABLE} to one that does, or install "
        f"the software renderer: apt-get install -y libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
    )


def _read_surface(scene: Path, agent: Agent) -> NavMesh:
    """The walkable surface beside a scene."""
    usual = agent == DEFAULT_AGENT
    file = scene.with_suffix(".navmesh" if usual else f".h{agent.height:g}_r{agent.radius:g}.navmesh")
    if not file.is_file():
        body = f"an agent of {agent.height:g} m height and {agent.radius:g} m radius"
        remedy = "it comes with the scan" if usual else "habitat-sim's recompute_navmesh and save_nav_mesh make it"
        raise VlarigError(f"the walkable surface of {body}, {file}, is missing; {remedy}, see docs/vlnce.md")
    return NavMesh.read(file)


def _upload(canvas: Canvas, image: np.ndarray) -> Any:
    """An image, ``uint8[height, width, 3]``, as a texture in graphics memory: linear between mipmaps, and repeated."""
    texture = canvas.context.texture(image.shape[1::-1], 3, image, alignment=1)
    texture.build_mipmaps()
    texture.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
    return texture


def _camera(position: np.ndarray, yaw: float, lens: Lens, height: int, width: int) -> np.ndarray:
    """From metres to clip space, ``float64[4, 4]``: a pinhole (habitat-sim@57ee494, src/esp/sensor/CameraSensor.cpp)."""
    across = 1.0 / np.tan(np.radians(lens.hfov) / 2.0)
    projection = np.diag([across, across * width / height, (FAR + NEAR) / (NEAR - FAR), 0.0])
    projection[2, 3], projection[3, 2] = 2.0 * FAR * NEAR / (NEAR - FAR), -1.0
    cosine, sine = np.cos(yaw), np.sin(yaw)
    view = np.array([[cosine, 0.0, -sine, 0.0], [0.0, 1.0, 0.0, 0.0], [sine, 0.0, cosine, 0.0], [0.0, 0.0, 0.0, 1.0]])
    view[:3, 3] = -view[:3, :3] @ (position + np.array([0.0, lens.elevation, 0.0]))
    return projection @ view


def _figure() -> list[Part]:
    """Another walker, round and darker on one side, so that its shape can be seen without lights."""
    parts = []
    for rings, colour in FIGURE:
        body = trimesh.creation.revolve(rings, sections=CORNERS)
        x, y, z = body.vertices.T
        positions = np.column_stack([x, z, -y]).astype(np.float32)
        shades = np.outer(0.85 + 0.15 * x / np.maximum(np.hypot(x, y), 1e-6), [*colour, 255]).astype(np.uint8)
        parts.append(Part(positions, np.zeros((len(x), 2), np.float32), shades, body.faces.astype(np.uint32), -1))
    return parts
