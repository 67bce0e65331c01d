"""Reading a scan's ``.glb``: its triangles and images, as habitat-sim places and shows them without lights."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image, ImageFile
from trimesh.exchange.gltf import extensions

from ..basis_universal import decode_basis
from ..errors import VlarigError
from ..upstream import quiet

#: From a file's z-up frame to y-up: (x, y, z) to (x, z, -y). habitat-sim does that to every ``.glb`` without a stage configuration
#: (habitat-sim@57ee494, src/esp/metadata/managers/StageAttributesManager.cpp, ``setDefaultAssetNameBasedAttributes``).
UPRIGHT = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

#: Extension of images that trimesh does not read: scans have come for habitat with them since February 2020.
BASIS = "GOOGLE_texture_basis"


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles with one texture.

    Attributes:
        positions: Metres in habitat's frame, ``float32[vertices, 3]``.
        uv: Places in the image, ``float32[vertices, 2]``; (0, 0) is its upper left corner.
        colours: What the image is multiplied by, RGBA, ``uint8[vertices, 4]``.
        triangles: Vertices counter-clockwise seen from the front, ``uint32[triangles, 3]``.
        texture: Number of the texture; -1 for plain white.
    """

    positions: np.ndarray
    uv: np.ndarray
    colours: np.ndarray
    triangles: np.ndarray
    texture: int


def read_scan(path: Path) -> tuple[list[Part], list[np.ndarray]]:
    """The triangles of a scan, and its images, ``uint8[height, width, 3]``, upper row first."""
    try:
        _read_basis()
        with quiet("trimesh"):
            scene = trimesh.load_scene(io.BytesIO(path.read_bytes()), file_type="glb", process=False)
            images: dict[int, tuple[int, Any]] = {}
            parts = [_part(scene, node, images) for node in scene.graph.nodes_geometry]
        if not parts:
            raise ValueError("it has no triangles")
        return parts, [np.asarray(image.convert("RGB")) for _, image in images.values()]
    except Exception as error:  # trimesh raises what its parts raise
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise VlarigError(f"the scene {path} cannot be read ({reason}); put the scan's own .glb there") from None


class _BasisImage(ImageFile.ImageFile):
    """An image by Basis Universal, for Pillow: decoded when it is used, so that a damaged one is not left out in silence."""

    def _open(self) -> None:
        assert self.fp is not None
        self._mode, self._size, self._packed = "RGB", (1, 1), self.fp.read()

    def load(self) -> Any:
        self.im = Image.fromarray(decode_basis(self._packed)).im
        self._size = self.im.size
        return self.im.pixel_access(self.readonly)


def _read_basis() -> None:
    """Make Pillow and trimesh read such images."""
    Image.register_open("BASIS", _BasisImage, lambda prefix: prefix.startswith(b"sB"))
    extensions.register_handler(BASIS, "texture_source")(lambda context: context["data"]["source"])


def _part(scene: Any, node: str, images: dict[int, tuple[int, Any]]) -> Part:
    """What a node shows; its texture's image is added to ``images`` by its identity, with its number."""
    pose, name = scene.graph[node]
    mesh, pose = scene.geometry[name], UPRIGHT @ pose
    triangles = mesh.faces[:, ::-1] if np.linalg.det(pose[:3, :3]) < 0 else mesh.faces  # a mirror turns fronts to backs
    positions = mesh.vertices @ pose[:3, :3].T + pose[:3, 3]
    uv, colours, texture = np.zeros((len(positions), 2)), np.full((len(positions), 4), 255, np.uint8), -1
    if mesh.visual.kind == "vertex":
        colours = mesh.visual.vertex_colors
    elif mesh.visual.kind == "texture":
        material = mesh.visual.material.to_pbr() if hasattr(mesh.visual.material, "to_pbr") else mesh.visual.material
        if material.baseColorFactor is not None:
            colours[:] = material.baseColorFactor
        if (image := material.baseColorTexture) is not None and mesh.visual.uv is not None:
            texture = images.setdefault(id(image), (len(images), image))[0]
            uv = mesh.visual.uv * [1, -1] + [0, 1]  # trimesh counts from the lower left corner
    whole = np.ascontiguousarray
    return Part(whole(positions, "f4"), whole(uv, "f4"), whole(colours, "u1"), whole(triangles, "u4"), texture)
