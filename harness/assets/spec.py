"""Asset bundles as data: which files a simulator needs, what they officially hold, and where they officially come from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from ...envs.errors import VlarigError, suggestion
from ...envs.plugins import bundle_files


@dataclass(frozen=True)
class Source:
    """An official place that files of a bundle come from.

    Attributes:
        repository: Address of the place.
        commit: The official revision.
        archive: Address of the official archive at that commit.
        licence: Terms under which the files are published there.
        folders: Each folder of the bundle that comes from here, to the folder of the archive, below its one top folder, that it
            is; ``.`` is everything.
    """

    repository: str
    commit: str
    archive: str
    licence: str
    folders: dict[str, str]

    def origin(self, path: str) -> str | None:
        """Where the bundle's file ``path`` lies in the archive, below its top folder; ``None`` where another source has it."""
        file = PurePosixPath(path)
        for here, there in self.folders.items():
            if file.is_relative_to(here):
                return str(PurePosixPath(there) / file.relative_to(here))
        return None


class Part(NamedTuple):
    """An archive that holds a part of a bundle, below one top folder, and the folder of the bundle that it becomes."""

    archive: str
    folder: str


class File(NamedTuple):
    """A file or folder of a bundle: its path there, and its content (:func:`~vlarig.harness.assets.check.content_id`)."""

    path: str
    blob: str


#: The official content of a file or folder of which upstream publishes no checksum.
UNKNOWN = "-"


@dataclass(frozen=True)
class BundleSpec:
    """A bundle of data files, read from a plug-in's ``<name>.toml``, with ``<name>.txt`` beside it.

    Contents are identified by git's blob ids or by SHA-256, in hex, so upstream's own repositories say what is official, file by file.
    A path that ends with ``/`` is a folder, whose content is everything below it. Where upstream publishes no checksum, the content is
    :data:`UNKNOWN`: whatever is there is taken as it is, and no file of it is downloaded.

    Attributes:
        name: Name of the bundle.
        title: One line for listings.
        sources: The official places; each file comes from one of them.
        files: Path of every file that the bundle must have, to its official content.
        stand_ins: Path of each official file that has a known replacement, to the replacement. That may lie at another path,
            where the simulator takes either.
        most_bytes: More bytes than an archive of the bundle holds, unpacked.
        stand_ins_note: How far results from stand-ins differ from official ones, in a few words.
        parts: Archives of ``$VLARIG_ASSETS`` that together hold the bundle, where it is not there as one.
        complete: Function that makes stand-ins for what the parts lack, ``module:function``: it gets the folder, and returns the paths
            of the files and folders that it completed, which are stand-ins from then on. Empty where the parts are all.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    files: dict[str, str]
    stand_ins: dict[str, File]
    most_bytes: int
    stand_ins_note: str
    parts: tuple[Part, ...] = ()
    complete: str = ""


def bundle_names() -> list[str]:
    """Names of the bundles that are known."""
    return sorted(bundle_files())


def load_bundle(name: str) -> BundleSpec:
    """The bundle's description."""
    files = bundle_files()
    if name not in files:
        raise VlarigError(f"unknown assets {name!r}; {suggestion(name, sorted(files))}")
    data = tomllib.loads(files[name].read_text(encoding="utf-8"))
    lines = files[name].with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    listed = [line.split("  ", 1) for line in lines if line and not line.startswith("#")]
    elsewhere = data.get("stand_in_paths", {})
    return BundleSpec(
        name=name,
        title=data["title"],
        sources=tuple(Source(**source) for source in data["sources"]),
        files={path: blob for blob, path in listed},
        stand_ins={path: File(elsewhere.get(path, path), blob) for path, blob in data.get("stand_ins", {}).items()},
        most_bytes=data["most_bytes"],
        stand_ins_note=data.get("stand_ins_note", ""),
        parts=tuple(Part(**part) for part in data.get("parts", ())),
        complete=data.get("complete", ""),
    )
