"""The check of a folder of assets: each file is official, a known stand-in, corrupt or missing, by the files' contents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ...envs.errors import VlarigError
from .spec import UNKNOWN, BundleSpec, File

#: File in a folder that was put together from parts: the stand-ins that were made for what the parts lack, as a bundle lists files.
MADE = "stand_ins.txt"


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

    @property
    def identity(self) -> str:
        """The summary with the digest: what a run's manifest records."""
        return f"{self.summary}; sha256 {self.digest[:12]}"


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
