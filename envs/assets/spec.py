"""Asset bundles as data: which files a simulator needs and their official content; and the check of a folder against it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ..errors import VlarigError, suggestion
from ..plugins import bundle_files

#: File in a folder that was put together from parts: the stand-ins that were made for what the parts lack, as a bundle lists files.
MADE = "stand_ins.txt"


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
    """A file or folder of a bundle: its path there, and its content (:func:`content_id`)."""

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
    stand_ins_note: str
    parts: tuple[Part, ...] = ()
    complete: str = ""


def bundle_names() -> list[str]:
    return sorted(bundle_files())


def load_bundle(name: str) -> BundleSpec:
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
        stand_ins_note=data.get("stand_ins_note", ""),
        parts=tuple(Part(**part) for part in data.get("parts", ())),
        complete=data.get("complete", ""),
    )


@dataclass(frozen=True)
class Contents:
    """The files of a bundle, sorted out.

    Attributes:
        official: How many files hold what upstream's hold.
        stand_ins: Paths of the files that hold a known replacement.
        unverified: Paths of the files whose official content is not known here.
        corrupt: Paths of the files that hold anything else.
        missing: Paths of the files that are not there, nor a replacement that lies elsewhere.
        note: What stand-ins change, in a few words.
        digest: SHA-256, in hex, over the sorted paths and contents: equal for equal files, wherever they lie.
    """

    official: int
    stand_ins: tuple[str, ...]
    unverified: tuple[str, ...]
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]
    note: str
    digest: str

    @property
    def total(self) -> int:
        """How many files the bundle must have."""
        return self.official + sum(map(len, (self.stand_ins, self.unverified, self.corrupt, self.missing)))

    @property
    def whole(self) -> bool:
        """Whether every file is there, and none is known to be wrong."""
        return not (self.corrupt or self.missing)

    @property
    def summary(self) -> str:
        """The kind of files in a few words; begins with ``official`` where there is nothing else."""
        if self.official == self.total:
            return f"official, {self.total} files"
        said = []
        if self.stand_ins:
            said.append(f"{len(self.stand_ins)} of {self.total} files are stand-ins for the official ones ({self.note})")
        if self.unverified:
            said.append(
                f"{len(self.unverified)} of {self.total} files are not compared with the official ones, which have no checksum"
            )
        return "; ".join(said)


def check_files(spec: BundleSpec, folder: Path) -> Contents:
    """Hash every file of the bundle in ``folder``."""
    found = {path: file for path in spec.files if (file := _find(spec, path, folder))}
    official = {path for path, file in found.items() if file == (path, spec.files[path])}
    known = {**spec.stand_ins, **_made(spec, folder)}
    stand_ins = {path for path in found.keys() - official if found[path] == known.get(path)}
    unverified = {path for path in found.keys() - stand_ins if spec.files[path] == UNKNOWN}
    corrupt = found.keys() - official - stand_ins - unverified
    lines = "".join(f"{blob}  {path}\n" for path, blob in sorted(found.values()))
    return Contents(
        official=len(official),
        stand_ins=tuple(sorted(found[path].path for path in stand_ins)),
        unverified=tuple(sorted(unverified)),
        corrupt=tuple(sorted(found[path].path for path in corrupt)),
        missing=tuple(sorted(spec.files.keys() - found.keys())),
        note=spec.stand_ins_note,
        digest=hashlib.sha256(lines.encode()).hexdigest(),
    )


def _made(spec: BundleSpec, folder: Path) -> dict[str, File]:
    """Path of each listed file or folder for which a stand-in was made here, to the stand-in."""
    if not spec.complete or not (folder / MADE).is_file():
        return {}
    lines = [line.split("  ", 1) for line in (folder / MADE).read_text(encoding="utf-8").splitlines()]
    return {path: File(path, content) for content, path in lines}


def _find(spec: BundleSpec, path: str, folder: Path) -> File | None:
    """The file in ``folder`` at an official file's ``path``, or else at the path of its known replacement."""
    places = [path, spec.stand_ins[path].path] if path in spec.stand_ins else [path]
    for place in places:
        file = folder / place
        try:
            if file.is_dir() if place.endswith("/") else file.is_file():
                return File(place, content_id(folder, place, spec.files[path]))
        except OSError as error:
            raise VlarigError(
                f"{file} cannot be read: {error.strerror or error}; fix that, or unpack the assets again"
            ) from None
    return None


def content_id(folder: Path, path: str, official: str) -> str:
    """The content of a file or folder of a bundle, in hex, in the way in which the official one is given.

    A file has its git blob id, where that is of 40 digits, or its SHA-256. A folder has the SHA-256 of sorted lines, one for each file
    below it: its SHA-256, two spaces, and its path from the folder.
    """
    place = folder / path
    if not path.endswith("/"):
        return file_hash("sha1" if len(official) == 40 else "sha256", place)
    every = (file.relative_to(place) for file in place.rglob("*") if file.is_file())
    files = sorted(
        file.as_posix() for file in every if "__pycache__" not in file.parts
    )  # what Python compiles there is no content
    lines = "".join(f"{file_hash('sha256', place / file)}  {file}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_hash(kind: Literal["sha1", "sha256"], file: Path) -> str:
    """SHA-256 of the content, in hex, or git's blob id: SHA-1 of it after git's head for it (Pro Git, chapter "Git Objects").

    It is computed once a process as long as size and time of change stay the same.
    """
    status = file.stat()
    return _content_hash(kind, file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**15)
def _content_hash(kind: str, file: Path, size: int, changed: int) -> str:
    head = b"blob %d\0" % size if kind == "sha1" else b""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.new(kind, head, usedforsecurity=False)).hexdigest()
