"""Asset bundles as data: which files a simulator needs, what they officially hold, and where they officially come from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..envs.errors import VlarigError, suggestion

BUNDLES = Path(__file__).parent / "bundles"


@dataclass(frozen=True)
class BundleSpec:
    """A bundle of data files, read from ``bundles/<name>.toml`` and ``bundles/<name>.txt``.

    Contents are told by git's blob ids, in hex: upstream's own repository then says what is official, file by file.

    Attributes:
        name: Name of the bundle.
        title: One line for listings.
        repository: Address of the official place.
        commit: The official revision.
        archive: Address of the official archive at that commit.
        folder: Where the files lie in the archive, below its one top folder.
        licence: Terms under which upstream publishes the files.
        files: Path of every file that the bundle must have, to its official content.
        stand_ins: Path of each file that has a known replacement, to the replacement's content.
        stand_ins_note: How far results from stand-ins differ from official ones, in a few words.
    """

    name: str
    title: str
    repository: str
    commit: str
    archive: str
    folder: str
    licence: str
    files: dict[str, str]
    stand_ins: dict[str, str]
    stand_ins_note: str


def bundle_names() -> list[str]:
    """Names of the bundles that are known."""
    return sorted(path.stem for path in BUNDLES.glob("*.toml"))


def load_bundle(name: str) -> BundleSpec:
    """The bundle's description.

    Raises:
        VlarigError: There is no such bundle; the nearest names are offered.
    """
    if name not in bundle_names():
        raise VlarigError(f"unknown assets {name!r}; {suggestion(name, bundle_names())}")
    data = tomllib.loads((BUNDLES / f"{name}.toml").read_text(encoding="utf-8"))
    lines = (BUNDLES / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.split("  ", 1) for line in lines if line and not line.startswith("#")]
    return BundleSpec(
        name=name,
        title=data["title"],
        repository=data["repository"],
        commit=data["commit"],
        archive=data["archive"],
        folder=data["folder"],
        licence=data["licence"],
        files={path: blob for blob, path in listed},
        stand_ins=data.get("stand_ins", {}),
        stand_ins_note=data.get("stand_ins_note", ""),
    )
