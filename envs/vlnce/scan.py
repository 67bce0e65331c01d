"""Reading a scan's ``.glb``: its triangles and pictures, as habitat-sim places and shows them without lights."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from ..errors import VlarigError
from ..upstream import quiet
from .basis import decode_basis

#: From a file's z-up frame to y-up: (x, y, z) to (x, z, -y). habitat-sim does that to every ``.glb`` without a stage configuration
#: (habitat-sim@57ee494, src/esp/metadata/managers/StageAttributesManager.cpp, ``setDefaultAssetNameBasedAttributes``).
UPRIGHT = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

#: Extension of pictures that trimesh does not read: scans have come for habitat with them since February 2020.
BASIS = "GOOGLE_texture_basis"


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


def read_scan(path: Path) -> tuple[list[Part], list[np.ndarray]]:
    """The triangles of a scan, and its pictures, ``uint8[height, width, 3]``, upper row first.

    Raises:
        VlarigError: The file is missing or damaged, or has pictures that are not read.
    """
    try:
        content = _without_basis(path.read_bytes())
        with quiet("trimesh"):
            scene = trimesh.load_scene(io.BytesIO(content), file_type="glb", process=False)
            pictures: dict[int, tuple[int, Any]] = {}
            parts = [_part(scene, node, pictures) for node in scene.graph.nodes_geometry]
        if not parts:
            raise ValueError("it has no triangles")
        return parts, [np.asarray(image.convert("RGB")) for _, image in pictures.values()]
    except Exception as error:  # trimesh raises what its parts raise
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise VlarigError(f"the scene {path} cannot be read ({reason}); put the scan's own .glb there") from None


def _without_basis(content: bytes) -> bytes:
    """The same ``.glb`` (glTF 2.0, section 4.4) with plain pictures in the place of those by Basis Universal."""
    size = struct.unpack_from("<I", content, 12)[0]
    if BASIS.encode() not in content[20 : 20 + size]:
        return content
    head, numbers = json.loads(content[20 : 20 + size]), bytearray(content[28 + size :])
    for texture in head["textures"]:
        texture.setdefault("source", texture.pop("extensions", {}).get(BASIS, {}).get("source"))
    for image in head["images"]:
        view = head["bufferViews"][image["bufferView"]]
        start = view.get("byteOffset", 0)
        packed = bytes(numbers[start : start + view["byteLength"]])
        if packed[:2] == b"sB":
            plain = io.BytesIO()
            Image.fromarray(decode_basis(packed)).save(plain, "PNG", compress_level=0)
            image["bufferView"], image["mimeType"] = len(head["bufferViews"]), "image/png"
            head["bufferViews"].append({"buffer": 0, "byteOffset": len(numbers), "byteLength": plain.tell()})
            numbers += plain.getvalue() + bytes(-plain.tell() % 4)
    for list_of in ("extensionsRequired", "extensionsUsed"):
        head[list_of] = [name for name in head.get(list_of, ()) if name != BASIS]
    head["buffers"][0]["byteLength"] = len(numbers)
    text = json.dumps({name: value for name, value in head.items() if value}).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(numbers), b"BIN\0") + numbers
    return struct.pack("<4s2I", b"glTF", 2, 12 + len(chunks)) + chunks


def _part(scene: Any, node: str, pictures: dict[int, tuple[int, Any]]) -> Part:
    """What a node shows; its picture is added to those by the identity of the image, with its number."""
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
            texture = pictures.setdefault(id(image), (len(pictures), image))[0]
            uv = mesh.visual.uv * [1, -1] + [0, 1]  # trimesh counts from the lower left corner
    whole = np.ascontiguousarray
    return Part(whole(positions, "f4"), whole(uv, "f4"), whole(colours, "u1"), whole(triangles, "u4"), texture)
