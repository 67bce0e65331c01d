"""Proxies for what upstream publishes on hubs alone: objects of boxes, cubes for the meshes of fixtures, noise for textures.

Their sizes are ours: upstream's tree names the objects and how each registry scales them, not how large they are. Everything is a
function of the tree: equal files on every machine.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from ..robotwin.proxies import noise

ASSETS = "robocasa/models/assets"
CATEGORIES = "robocasa/models/objects/kitchen_objects.py"

#: Registries that the tasks sample from (robocasa/environments/tabletop/tabletop_24dc.py, ``TASK_CONFIG``).
REGISTRIES = ("objaverse", "sketchfab", "lightwheel")

#: Objects of each category and registry; split A holds the first half of them (kitchen_object_utils.py, ``split_th``).
INSTANCES = 4

#: Half sides in metres before a task's own scale, of the categories that are not :data:`SMALL`.
FLAT = {
    "plate": (0.1, 0.1, 0.006),
    "tray": (0.16, 0.12, 0.006),
    "cutting_board": (0.16, 0.12, 0.008),
    "placemat": (0.16, 0.12, 0.003),
}
OPEN = {
    "bowl": (0.1, 0.1, 0.03), "pan": (0.12, 0.12, 0.025), "pot": (0.12, 0.12, 0.05), "basket": (0.13, 0.11, 0.05),
    "cardboard_box": (0.13, 0.11, 0.06),
}  # fmt: skip
TIERED = {"tiered_shelf": (0.16, 0.12, 0.16), "tiered_basket": (0.16, 0.12, 0.16)}
TALL = {"can": 0.05, "cup": 0.045, "milk": 0.07, "bottled_water": 0.08, "bottled_drink": 0.08, "wine": 0.09, "liquor": 0.09}
LONG = ("sweet_potato", "squash", "eggplant", "croissant", "corn", "banana", "baguette", "cucumber", "carrot")
SMALL = (0.028, 0.028, 0.028)

WALL = 0.004


@dataclass(frozen=True)
class Box:
    """Half sides and centre of a box, in metres."""

    half: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)


def complete(folder: Path) -> list[str]:
    """Make proxies for what ``folder``, upstream's tree, lacks.

    Returns:
        The folders that are stand-ins now. Meshes and textures of fixtures are too, in folders that hold upstream's own models.
    """
    assets = folder / ASSETS
    for category, registry, scale, place in _objects(folder / CATEGORIES):
        for number in range(INSTANCES):
            model = assets / "objects" / place / f"proxy_{number}" / "model.xml"
            model.parent.mkdir(parents=True, exist_ok=True)
            model.write_text(_object_model(category, f"{registry} {number}", np.array(scale)), encoding="utf-8")
    for file in sorted(_missing(assets)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise(_number(file.parent.name, file.name)) if file.suffix == ".png" else _cube())
    return [f"{ASSETS}/objects/{registry}/" for registry in REGISTRIES] + [f"{ASSETS}/textures/"]


def _objects(file: Path) -> list[tuple[str, str, list[float], str]]:
    """Category, registry, scale and folder of each kind of object that upstream's table names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (table,) = (
        each.value for each in tree.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "OBJ_CATEGORIES"
    )
    found = []
    for category, settings in _value(table).items():
        for registry in REGISTRIES:
            if registry in settings:
                scale = settings[registry].get("scale", 1.0)
                places = settings[registry].get("model_folders", [f"{registry}/{category}"])
                found += [(category, registry, list(np.broadcast_to(scale, 3)), place) for place in places]
    return found


def _value(node: ast.expr) -> Any:
    """A literal, in which ``dict(...)`` may be called; lists of models to leave out, which are computed, are ``None``."""
    if isinstance(node, ast.Call):
        return {word.arg: _value(word.value) for word in node.keywords}
    return None if isinstance(node, (ast.ListComp, ast.BinOp)) else ast.literal_eval(node)


def _object_model(category: str, name: str, scale: np.ndarray) -> str:
    """An object's model, as upstream's loader expects it: see robocasa/models/objects/objects.py, ``MJCFObject``."""
    rng = np.random.default_rng(_number(category, name))
    colour = rng.uniform(0.15, 0.95, 3)
    half, boxes, spawns = _shape(category, rng.uniform(0.9, 1.1))
    shown = f'group="1" contype="0" conaffinity="0" mass="1e-5" rgba="{_numbers(colour)} 1"'
    geoms = [
        f'<geom name="touch_{number}" {_placed(box, scale)} group="0" rgba="0 0 0 0"/>' for number, box in enumerate(boxes)
    ]
    geoms += [f'<geom name="shown_{number}" {_placed(box, scale)} {shown}/>' for number, box in enumerate(boxes)]
    unseen = 'group="1" contype="0" conaffinity="0" mass="1e-5" rgba="0 0 0 0"'
    geoms += [f'<geom name="spawn_{number}" {_placed(box, scale)} {unseen}/>' for number, box in enumerate(spawns)]
    size = np.array(half) / scale
    marks = {"bottom": [0, 0, -size[2]], "top": [0, 0, size[2]], "horizontal_radius": [size[0], size[1], 0]}
    sites = [
        f'<site name="{mark}_site" pos="{_numbers(np.array(at))}" size="0.005" rgba="0 0 0 0"/>' for mark, at in marks.items()
    ]
    inside = "\n".join(geoms), "\n".join(sites)
    return '<mujoco model="{}"><asset/><worldbody><body><body name="object">\n{}\n</body>\n{}\n</body></worldbody></mujoco>\n'.format(
        category, *inside
    )


def _placed(box: Box, scale: np.ndarray) -> str:
    """Attributes of a geom that has the box's size and place when it has been scaled."""
    return f'type="box" size="{_numbers(np.array(box.half) / scale)}" pos="{_numbers(np.array(box.centre) / scale)}"'


def _shape(category: str, factor: float) -> tuple[tuple[float, float, float], list[Box], list[Box]]:
    """Half sides of a category's bounding box, its boxes, and the regions in which something may be put down."""
    if category in FLAT:
        return FLAT[category], [Box(FLAT[category])], []
    if category in OPEN:
        return OPEN[category], _open_box(*OPEN[category]), []
    if category in TIERED:
        x, y, z = TIERED[category]
        boards = [Box((x, y, WALL), (0.0, 0.0, at)) for at in (WALL - z, WALL)]
        posts = [Box((WALL, WALL, z), (sx * (x - WALL), sy * (y - WALL), 0.0)) for sx in (-1, 1) for sy in (-1, 1)]
        spawns = [Box((0.9 * x, 0.9 * y, 0.4 * z), (0.0, 0.0, at + WALL + 0.4 * z)) for at in (WALL - z, WALL)]
        return TIERED[category], boards + posts, spawns
    x, y, z = SMALL
    half = (x * factor, y * factor * (1.8 if category in LONG else 1.0), TALL.get(category, z))
    return half, [Box(half)], []


def _open_box(x: float, y: float, z: float) -> list[Box]:
    """A box without its lid."""
    sides = [Box((WALL, y, z), (sign * (x - WALL), 0.0, 0.0)) for sign in (-1, 1)]
    sides += [Box((x, WALL, z), (0.0, sign * (y - WALL), 0.0)) for sign in (-1, 1)]
    return [Box((x, y, WALL), (0.0, 0.0, WALL - z)), *sides]


def _missing(assets: Path) -> set[Path]:
    """Meshes and textures that upstream's models, styles and code name and that are not here."""
    named = set()
    for model in assets.rglob("*.xml"):
        for element in ET.parse(model).iter():
            name = element.get("file")
            if name:
                named.add(Path(*(model.parent / name).parts) if ".." not in name else (model.parent / name).resolve())
    for text in [*assets.rglob("*.yaml"), *assets.parent.rglob("*.py")]:
        named |= {assets / name for name in re.findall(r"textures/[\w/ -]+\.png", text.read_text(encoding="utf-8"))}
    return {file for file in named if not file.exists()}


def _cube() -> bytes:
    """A Wavefront file of a cube with sides of 4 cm."""
    signs = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    corners = [f"v {0.02 * x} {0.02 * y} {0.02 * z}" for x, y, z in signs]
    faces = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    return "\n".join([*corners, *(f"f {face}" for face in faces), ""]).encode()


def _number(*words: str) -> int:
    """A number of 32 bits from words."""
    return int.from_bytes(sha256("/".join(words).encode()).digest()[:4], "big")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6g}" for value in values)
