"""The data sets of VLN-CE as initial states, read from their official files and checked.

Formats: jacobkrantz/VLN-CE@729d141 habitat_extensions/task.py (VLNCEDatasetV1, RxRVLNCEDatasetV1) and measures.py (NDTW, which reads
``locations`` of the ground truth).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ...envs.errors import VlarigError

#: What a scene's path may begin with (task.py, DEFAULT_SCENE_PATH_PREFIX), and where scenes are.
SCENES = "data/scene_datasets/"

#: Languages of RxR, and the roles of who wrote down or followed an instruction (task.py, RxRVLNCEDatasetV1).
LANGUAGES, ROLES = ("en-US", "en-IN", "hi-IN", "te-IN"), ("guide", "follower")

Kind = TypeVar("Kind")
Point = tuple[float, float, float]


def read_r2r(folder: Path, bundle: str, split: str) -> dict[int, dict[str, Any]]:
    """The episodes of a split of R2R, by their number, in a bundle's folder; each is the adapter's payload."""
    place = folder / "data" / "datasets" / "R2R_VLNCE_v1-3_preprocessed" / split
    return _read(folder, bundle, place / f"{split}.json.gz", place / f"{split}_gt.json.gz")


def read_rxr(folder: Path, bundle: str, split: str, role: str) -> dict[str, dict[int, dict[str, Any]]]:
    """The episodes of a split of RxR by language and number, of a role of :data:`ROLES`; else like :func:`read_r2r`."""
    place = folder / "data" / "datasets" / "RxR_VLNCE_v0" / split
    if role == "follower" and not (place / f"{split}_{role}.json.gz").exists():
        return {}  # the data set is used without them too
    episodes = _read(folder, bundle, place / f"{split}_{role}.json.gz", place / f"{split}_{role}_gt.json.gz")
    found: dict[str, dict[int, dict[str, Any]]] = {language: {} for language in LANGUAGES}
    for number, payload in episodes.items():
        language = payload["language"]
        if language not in found:
            raise VlarigError(
                f"episode {number} of {place / f'{split}_{role}.json.gz'} has the language {language!r}, "
                f"expected one of {', '.join(LANGUAGES)}"
            )
        found[language][number] = payload
    return found


class _Words(msgspec.Struct):
    instruction_text: str
    language: str = ""


class _Goal(msgspec.Struct):
    position: Point


class _Episode(msgspec.Struct):
    episode_id: int
    scene_id: str
    instruction: _Words
    start_position: Point
    start_rotation: tuple[float, float, float, float]
    goals: Annotated[list[_Goal], msgspec.Meta(min_length=1)]
    reference_path: list[Point] | None = None


class _Episodes(msgspec.Struct):
    episodes: Annotated[list[_Episode], msgspec.Meta(min_length=1)]


class _Truth(msgspec.Struct):
    locations: list[Point]


def _read(folder: Path, bundle: str, file: Path, truth_file: Path) -> dict[int, dict[str, Any]]:
    listed, truth = _json(file, _Episodes).episodes, _json(truth_file, dict[str, _Truth])
    surfaces: dict[str, str] = {}
    found: dict[int, dict[str, Any]] = {}
    for each in listed:
        number, scene = each.episode_id, each.scene_id.removeprefix(SCENES)
        if number in found:
            raise VlarigError(f"{file} has two episodes {number}")
        if ".." in Path(scene).parts or scene.startswith("/"):
            raise VlarigError(f"episode {number} of {file} has the scene {scene!r}, expected a path below {SCENES}")
        if scene not in surfaces:
            surfaces[scene] = _hash(folder / SCENES / scene)
        found[number] = {
            "kind": "instruction_following",
            "bundle": bundle,
            "scene": scene,
            "surface": surfaces[scene],
            "instruction": each.instruction.instruction_text,
            "language": each.instruction.language,
            "position": each.start_position,
            "rotation": each.start_rotation,
            "goals": [goal.position for goal in each.goals],
            "reference": truth[str(number)].locations if str(number) in truth else None,
            "nodes": each.reference_path or [],
        }
    # Neighbours share a house, so that it is loaded once.
    return dict(sorted(found.items(), key=lambda item: (item[1]["scene"], item[0])))


def _hash(scene: Path) -> str:
    """What changes with a scene's walkable surface; empty where there is none yet."""
    surface = scene.with_suffix(".navmesh")
    return hashlib.sha256(surface.read_bytes()).hexdigest()[:16] if surface.is_file() else ""


def _json(file: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=kind, strict=False)
    except FileNotFoundError:
        raise VlarigError(f"{file} is missing; docs/vlnce.md says where the data sets are") from None
    except (OSError, EOFError, ValueError, zlib.error, msgspec.DecodeError) as error:
        raise VlarigError(f"{file} is not of VLN-CE's format ({error}); get the data set anew, see docs/vlnce.md") from None


def read_objects(scenes: Iterable[Path]) -> dict[str, dict[str, list[list[float]]]]:
    """What there is in some scenes: scene to the name of a kind of object to the places of all its objects, in habitat's frame.

    A scene is a ``.glb`` file; its objects are in ``<scan>.rooms.json`` (the stand-in houses), else in ``<scan>.house`` (Matterport3D,
    data_organization.md).
    """
    found = {}
    for scene in scenes:
        rooms, house = scene.with_suffix(".rooms.json"), scene.with_suffix(".house")
        if rooms.is_file() or house.is_file():
            found[f"mp3d/{scene.parent.name}/{scene.name}"] = _of_rooms(rooms) if rooms.is_file() else _of_house(house)
    return found


def _of_rooms(file: Path) -> dict[str, list[list[float]]]:
    objects: dict[str, list[list[float]]] = {}
    for room in json.loads(file.read_text(encoding="utf-8"))["rooms"]:
        for each in room["furniture"]:
            x, y = each["xy"]
            objects.setdefault(f"{each['color']} {each['kind']}", []).append([x, 0.0, -y])
    return objects


#: Categories of mpcat40 that are a part of the house, or nothing to look for.
BUILDING = frozenset(
    (
        "void", "wall", "floor", "ceiling", "misc", "unlabeled", "objects", "column", "beam", "railing", "stairs", "door", "window",
        "board_panel",
    )
)  # fmt: skip


def _of_house(file: Path) -> dict[str, list[list[float]]]:
    """The objects of a house by category (habitat-sim@57ee494 src/esp/scene/Mp3dSemanticScene.cpp); there z is up."""
    categories: dict[str, str] = {}
    objects: dict[str, list[list[float]]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["C"]:
            categories[words[1]] = words[5]
        elif words[:1] == ["O"] and (name := categories.get(words[3], "void")) not in BUILDING:
            x, y, z = map(float, words[4:7])
            objects.setdefault(name.replace("_", " "), []).append([x, z, -y])
    return objects
