"""Reading a scan's ``.glb`` (binary glTF 2.0): its triangles and pictures, as habitat-sim places and shows them without lights."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import VlarigError

#: Types of numbers, numbers of an element, and the mode of triangles (glTF 2.0, sections 3.6.2.2, 3.6.2.3 and 3.7.2.1).
KINDS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES = 4

#: Extensions of compressed triangles and pictures.
UNREAD = {"KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu", "EXT_texture_webp"}

#: Filters of small and large pictures, and the wrap of both axes, where the file names none: linear between mipmaps, linear, repeated.
SAMPLER = {"minFilter": 9987, "magFilter": 9729, "wrapS": 10497, "wrapT": 10497}

#: From a file's z-up frame to y-up: (x, y, z) to (x, z, -y). habitat-sim does that to every ``.glb`` without a stage configuration
#: (habitat-sim@57ee494, src/esp/metadata/managers/StageAttributesManager.cpp, ``setDefaultAssetNameBasedAttributes``).
UPRIGHT = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles with one texture.

    Attributes:
        positions: Metres in habitat's frame, ``float32[vertices, 3]``.
        uv: Places in the picture, ``float32[vertices, 2]``; (0, 0) is its upper left corner.
        colours: What the picture is multiplied by, RGBA, ``uint8[vertices, 4]``.
        triangles: Vertices counter-clockwise seen from the front, ``uint32[triangles, 3]``.
        texture: Number of the texture; -1 for plain white.
    """

    positions: np.ndarray
    uv: np.ndarray
    colours: np.ndarray
    triangles: np.ndarray
    texture: int


class Glb:
    """An opened file. Base colours are read, and what belongs to lights is not.

    Args:
        path: The file.

    Raises:
        VlarigError: In all methods: the file is missing or damaged, or needs what is not read here, such as other files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            content = memoryview(path.read_bytes())
            magic, version, length, size = struct.unpack_from("<4s3I", content)
            if magic != b"glTF" or version != 2 or length > len(content):
                raise ValueError("it is no whole .glb of version 2")
            self._json: dict[str, Any] = json.loads(bytes(content[20 : 20 + size]))
            self._binary = content[28 + size : length]
            if unread := UNREAD.intersection(self._json.get("extensionsRequired", [])):
                raise ValueError(f"the glTF extension {min(unread)} is not read")
            if any("uri" in buffer for buffer in self._json.get("buffers", [])):
                raise ValueError("its numbers are in another file")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
            reason = f"{type(error).__name__}: {error}"
            raise VlarigError(f"the scene {self._path} cannot be read ({reason}); put the scan's own .glb there") from None

    def parts(self) -> list[Part]:
        """All that the file's scene shows."""
        parts: list[Part] = []
        with self._reading():
            nodes = self._json["nodes"]
            ahead = [(number, UPRIGHT) for number in self._json["scenes"][self._json.get("scene", 0)]["nodes"]]
            for number, parent in ahead:  # which grows
                pose = parent @ _pose(nodes[number])
                ahead += [(child, pose) for child in nodes[number].get("children", [])]
                if len(ahead) > len(nodes):
                    raise ValueError("a node is there twice")
                if "mesh" in nodes[number]:
                    parts += [self._part(each, pose) for each in self._json["meshes"][nodes[number]["mesh"]]["primitives"]]
            if not parts:
                raise ValueError("it has no triangles")
        return parts

    def _part(self, primitive: dict[str, Any], pose: np.ndarray) -> Part:
        if primitive.get("mode", TRIANGLES) != TRIANGLES:
            raise ValueError(f"a primitive of mode {primitive['mode']} is no list of triangles")
        attributes = primitive["attributes"]
        positions = self._numbers(attributes["POSITION"]) @ pose[:3, :3].T + pose[:3, 3]
        count = len(positions)
        triangles = self._numbers(primitive["indices"]) if "indices" in primitive else np.arange(count)
        triangles = triangles.astype(np.uint32).reshape(-1, 3)
        if triangles.max() >= count:
            raise ValueError("a triangle has a vertex that is not there")
        if np.linalg.det(pose[:3, :3]) < 0:
            triangles = triangles[:, ::-1].copy()  # a mirror turns fronts to backs
        material = self._json["materials"][primitive["material"]] if "material" in primitive else {}
        base = material.get("pbrMetallicRoughness", {})
        colours = np.full((count, 4), base.get("baseColorFactor", [1.0, 1.0, 1.0, 1.0]))
        if "COLOR_0" in attributes:
            vertex = self._numbers(attributes["COLOR_0"])
            colours[:, : vertex.shape[1]] *= vertex
        colours = np.clip(np.rint(colours * 255), 0, 255).astype(np.uint8)
        picture = base.get("baseColorTexture", {"index": -1})
        key = f"TEXCOORD_{picture.get('texCoord', 0)}"
        uv = np.zeros((count, 2)) if picture["index"] < 0 else self._numbers(attributes[key])
        return Part(positions.astype(np.float32), uv.astype(np.float32), colours, triangles, picture["index"])

    def _numbers(self, number: int) -> np.ndarray:
        """An accessor's elements, ``[count, width]``; normalised whole numbers as ``float64``."""
        accessor = self._json["accessors"][number]
        if "sparse" in accessor:
            raise ValueError(f"accessor {number} is sparse")
        kind, width = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]]
        stride = self._json["bufferViews"][accessor["bufferView"]].get("byteStride", kind.itemsize * width)
        view, start = self._view(accessor["bufferView"]), accessor.get("byteOffset", 0)
        found = np.ndarray((accessor["count"], width), kind, view, start, (stride, kind.itemsize))
        return found / np.iinfo(kind).max if accessor.get("normalized") else found

    def _view(self, number: int) -> memoryview:
        view = self._json["bufferViews"][number]
        return self._binary[view.get("byteOffset", 0) :][: view["byteLength"]]

    def sampler(self, texture: int) -> dict[str, int]:
        """The texture's ``minFilter``, ``magFilter``, ``wrapS`` and ``wrapT``, as OpenGL numbers them."""
        with self._reading():
            described = self._json["textures"][texture]
            return {**SAMPLER, **(self._json["samplers"][described["sampler"]] if "sampler" in described else {})}

    def picture(self, texture: int) -> np.ndarray:
        """The texture's picture, ``uint8[height, width, 3]``, upper row first."""
        with self._reading():
            image = self._json["images"][self._json["textures"][texture]["source"]]
            return np.asarray(Image.open(io.BytesIO(self._view(image["bufferView"]))).convert("RGB"))


def _pose(node: dict[str, Any]) -> np.ndarray:
    """A node's transform, ``float64[4, 4]``: its matrix, or its scale, then its rotation, then its translation."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    pose = np.eye(4)
    pose[:3, :3] = (np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross) * node.get("scale", (1.0, 1.0, 1.0))
    pose[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return pose
