"""Unpacking a bundle's archive: once for each content of the archive, and never outside of its own folder.

Members are checked here, not by tarfile's ``filter="data"``: the Python 3.11.2 of Debian 12 has no filters.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import pkgutil
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ...envs.errors import VlarigError
from ...envs.untrusted import one_line
from ..locking import made_whole, one_at_a_time
from .spec import MADE, BundleSpec, content_id, file_hash

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Suffixes of a bundle's archive, in order of preference.
SUFFIXES = (".tar.xz", ".tar.gz", ".tar.zst")

#: What reading a damaged archive raises: by its compression, or by headers that say what cannot be.
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstd.ZstdError, EOFError),
    *(ValueError, ArithmeticError, LookupError),
)

#: Bytes that are copied at a time.
_PIECE = 2**20


class UnsafeMemberError(tarfile.TarError):
    """A member of an archive that must not be unpacked."""


def find_archive(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def unpacked_name(archive: Path, name: str) -> str:
    """Name of the folder that the archive is unpacked to; another content is another folder."""
    try:
        return f"{name}-{file_hash('sha256', archive)[:12]}"
    except OSError as error:
        raise VlarigError(f"{archive} cannot be read: {error.strerror or error}; fix that, or move it away") from None


def unpack(archive: Path, folder: Path, most_bytes: int, report: Callable[[str], None]) -> None:
    """Unpack ``archive`` to ``folder``, unless that was done before, in which case nothing is written.

    Two processes at the same time wait for each other, and what was interrupted is made again. Only contents are taken: files get the
    modes, owners and times of new ones.

    Args:
        archive: The archive.
        folder: The folder.
        most_bytes: Most bytes that it may hold, its headers included.
        report: Gets a line when it is unpacked.
    """
    _make_once(folder, f"{archive}", lambda scratch: _unpack_to(archive, scratch, most_bytes), report)


def assemble(spec: BundleSpec, archives: Sequence[Path], folder: Path, report: Callable[[str], None]) -> None:
    """Put a bundle together from its parts, unless that was done before, and have it completed.

    The contents of what was completed are written to :data:`~vlarig.harness.assets.spec.MADE` in the folder.

    Args:
        spec: The bundle.
        archives: An archive for each part.
        folder: The folder.
        report: Gets a line when it is put together.
    """

    def fill(scratch: Path) -> None:
        for part, archive in zip(spec.parts, archives, strict=True):
            _unpack_to(archive, scratch / part.folder, spec.most_bytes, without_top=True)
        if spec.complete:
            completed = pkgutil.resolve_name(spec.complete)(scratch)
            lines = [f"{content_id(scratch, path, spec.files[path])}  {path}\n" for path in completed]
            (scratch / MADE).write_text("".join(lines), encoding="utf-8")

    _make_once(folder, ", ".join(map(str, archives)), fill, report)


def assembled_name(spec: BundleSpec, archives: Sequence[Path]) -> str:
    """Name of the folder that the parts are put together in; other contents, or another completion, are another folder."""
    names = [unpacked_name(archive, archive.name) for archive in archives]
    if spec.complete:
        module = pkgutil.resolve_name(spec.complete.partition(":")[0])
        names.append(hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest())
    return f"{spec.name}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"


def _make_once(folder: Path, archives: str, fill: Callable[[Path], None], report: Callable[[str], None]) -> None:
    """Fill a scratch folder, which becomes ``folder``, unless that is there already."""
    if folder.is_dir():
        return
    with one_at_a_time(folder.with_name(f"{folder.name}.lock"), f"the assets in {archives}", report):
        if not folder.is_dir():
            report(f"unpacking {archives} to {folder} (once)")
            with made_whole(folder) as scratch:
                fill(scratch)


def _unpack_to(archive: Path, folder: Path, most_bytes: int, without_top: bool = False) -> None:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstd.open}[archive.suffix]
    try:
        with opener(archive, "rb") as plain, tarfile.open(fileobj=cast("Any", _Bounded(plain, most_bytes)), mode="r|") as tar:
            for member in tar:
                if without_top:
                    member.name = member.name.partition("/")[2]
                if member.name:
                    _take(tar, member, folder)
    except UnsafeMemberError as error:
        raise VlarigError(f"{archive} is not unpacked, since it is unsafe: {error}; replace it") from None
    except DAMAGED as error:
        raise VlarigError(f"{archive} is damaged ({one_line(str(error))}); replace it") from None


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a member, which must be a plain file or a folder within ``folder``; a bundle has nothing else.

    Raises:
        UnsafeMemberError: It is something else.
    """
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise UnsafeMemberError(f"{member.name!r} is neither a plain file nor a folder")
    path = folder / member.name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeMemberError(f"{member.name!r} would be extracted outside the destination")
    content = tar.extractfile(member)
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        write_file(path, content)


def write_file(file: Path, content: IO[bytes]) -> None:
    """Write the content to a file, whose folder need not be there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        shutil.copyfileobj(content, out, _PIECE)


class _Bounded:
    """An archive's contents, which tarfile reads, up to a bound: a few megabytes can be decompressed to any number."""

    def __init__(self, plain: IO[bytes], most: int) -> None:
        self._plain = plain
        self._most = self._left = most

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes more.

        Raises:
            UnsafeMemberError: There were more than the bound in all.
        """
        data = self._plain.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UnsafeMemberError(f"it holds more than {self._most / 10**9:g} GB, and this bundle holds less")
        return data
