"""Proxies for what upstream publishes on a hub alone: boxes and open boxes for meshes, noise for textures.

Their sizes and centres are those of upstream's own annotations (``model_data*.json``), so that grasp poses, functional points and
collision-free places fit. Everything is a function of the annotations: equal files on every machine.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

OBJECTS = "assets/objects"
TEXTURES = "assets/background_texture/unseen"

#: Objects that something is put into, by parts of their names; theirs are open boxes.
HOLLOW = ("bowl", "basket", "dustbin", "trashbin", "plasticbox", "shoe-box", "tray", "cup", "mug", "skillet")

#: Thickness of an open box's walls: this share of its shortest side, and at least that of its shorter horizontal one.
WALL, HORIZONTAL_WALL = 0.06, 0.03

#: Upstream's number of unseen textures (TianxingChen/RoboTwin2.0, ``background_texture.zip``): a reset samples one by its number.
UNSEEN_TEXTURES = 1000

#: Upstream's further objects for clutter, which are published with their sizes on the hub alone: none.
NO_CLUTTER = {"item_names": [], "list_of_items": {}, "z_max": {}, "radius": {}, "z_offset": {}}

#: A box's 24 corners, four of each face in turn, as signs of its half sides; their normals; and the corners of its 12 triangles.
_FACES = [(axis, sign) for axis in range(3) for sign in (-1, 1)]
_TURNS = ((-1, -1), (1, -1), (1, 1), (-1, 1))
_CORNERS = np.array([np.roll([sign, sign * u, v], axis) for axis, sign in _FACES for u, v in _TURNS], float)
_NORMALS = np.array([np.roll([sign, 0, 0], axis) for axis, sign in _FACES for _ in _TURNS], "<f4")
_TRIANGLES = np.array([4 * face + corner for face in range(6) for corner in (0, 1, 2, 0, 2, 3)], "<u2")


def complete(folder: Path) -> list[str]:
    """Make proxies for what ``folder``, a tree of upstream's data files, lacks.

    Returns:
        The folders that are stand-ins now: all of the objects, and the textures. Objects that upstream loads from a URDF stay without
        meshes, since annotations do not tell their parts' shapes.
    """
    objects = folder / OBJECTS
    (objects / "objaverse").mkdir(exist_ok=True)
    (objects / "objaverse" / "list.json").write_text(json.dumps(NO_CLUTTER))
    for file in sorted(objects.glob("*/model_data*.json")):
        known = json.loads(file.read_text(encoding="utf-8"))
        centre, sides = (np.array(known.get(name, [0] * 3), float) for name in ("center", "extents"))
        number = re.fullmatch(r"model_data(\d*)", file.stem)
        if number is None or not np.all(sides > 0):
            continue
        mesh = _glb(
            _open_box(sides) if any(word in file.parent.name for word in HOLLOW) else [(sides, np.zeros(3))], centre, file
        )
        for kind in ("collision", "visual"):
            (file.parent / kind).mkdir(exist_ok=True)
            (file.parent / kind / f"base{number[1]}.glb").write_bytes(mesh)
    textures = folder / TEXTURES
    textures.mkdir(parents=True)
    for number in range(UNSEEN_TEXTURES):
        (textures / f"{number}.png").write_bytes(noise(number))
    return [f"{OBJECTS}/{each.name}/" for each in sorted(objects.iterdir()) if each.is_dir()] + [f"{TEXTURES}/"]


def _open_box(sides: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """A box without its lid (the y axis points up in these meshes): sides and centre of its five walls."""
    x, y, z = sides
    wall = max(WALL * min(sides), HORIZONTAL_WALL * min(x, z))
    walls = [(np.array([x, wall, z]), np.array([0, (wall - y) / 2, 0]))]
    for sign in (-1, 1):
        walls.append((np.array([wall, y, z]), np.array([sign * (x - wall) / 2, 0, 0])))
        walls.append((np.array([x, y, wall]), np.array([0, 0, sign * (z - wall) / 2])))
    return walls


def _glb(boxes: list[tuple[np.ndarray, np.ndarray]], centre: np.ndarray, file: Path) -> bytes:
    """A binary glTF 2.0 with a mesh for each box (sides, centre), which SAPIEN makes a convex shape of its own.

    The colour depends on the name of the file's folder.
    """
    colour = [*(byte / 255 for byte in sha256(file.parent.name.encode()).digest()[:3]), 1.0]
    head: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(boxes)))}],
        "nodes": [{"mesh": number} for number in range(len(boxes))],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": colour, "metallicFactor": 0.0, "roughnessFactor": 1.0}}],
        **{name: [] for name in ("meshes", "accessors", "bufferViews")},
    }
    binary = b""
    for sides, offset in boxes:
        first = len(head["accessors"])
        primitive = {"attributes": {"POSITION": first, "NORMAL": first + 1}, "indices": first + 2, "material": 0}
        head["meshes"].append({"primitives": [primitive]})
        corners = _CORNERS * sides / 2 + offset + centre
        bounds = {"min": corners.min(0).tolist(), "max": corners.max(0).tolist()}
        for numbers, kind, form, more in (
            (corners.astype("<f4"), 5126, "VEC3", bounds), (_NORMALS, 5126, "VEC3", {}), (_TRIANGLES, 5123, "SCALAR", {}),
        ):  # fmt: skip
            accessor = {"bufferView": len(head["bufferViews"]), "componentType": kind, "count": len(numbers), "type": form}
            head["accessors"].append({**accessor, **more})
            head["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": numbers.nbytes})
            binary += numbers.tobytes()
    head["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 4)
    parts = [struct.pack("<II", len(text), 0x4E4F534A), text, struct.pack("<II", len(binary), 0x004E4942), binary]
    return struct.pack("<III", 0x46546C67, 2, 12 + sum(map(len, parts))) + b"".join(parts)


def noise(number: int) -> bytes:
    """A PNG of 16 x 16 pixels: a colour of its own, with some noise."""
    rng = np.random.default_rng(number)
    pixels = np.clip(rng.uniform(40, 215, 3) + rng.normal(0, 12, (16, 16, 3)), 0, 255).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
