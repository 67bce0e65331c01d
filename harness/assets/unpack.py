"""Unpacking a bundle's archive: once for each content of the archive, and never outside of its own folder."""

from __future__ import annotations

import hashlib
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from ..locking import one_at_a_time
from .folder import made_whole

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What an archive of a bundle may end with, in order of preference.
SUFFIXES = (".tar.xz", ".tar.gz", ".tar.zst")

#: What reading a damaged archive raises.
DAMAGED = (tarfile.TarError, lzma.LZMAError, zlib.error, zstd.ZstdError, EOFError)


#: Pythons before 3.11.4, such as Debian 12's, have no filters; what they would refuse is refused here, owners and modes apart.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class UnsafeMemberError(tarfile.TarError):
    """A member of an archive that must not be unpacked."""


def find_archive(folder: Path, name: str) -> Path | None:
    """The bundle's archive in ``folder``, ``None`` where there is none."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def unpacked_name(archive: Path, name: str) -> str:
    """Name of the folder that the archive is unpacked to; another content is another folder.

    Raises:
        VlarigError: The archive cannot be read.
    """
    try:
        status = archive.stat()
        return f"{name}-{_sha256(archive, status.st_size, status.st_mtime_ns)[:12]}"
    except OSError as error:
        raise VlarigError(f"{archive} cannot be read: {error.strerror or error}; mend that, or move it away") from None


@lru_cache(maxsize=16)
def _sha256(archive: Path, size: int, changed: int) -> str:
    """SHA-256, in hex; computed once a process as long as size and time of change stay the same."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Unpack ``archive`` to ``folder``, unless that was done before.

    Two processes at the same time wait for each other, and what was interrupted is made anew.

    Raises:
        VlarigError: The archive is damaged or holds a file that would lie outside, or the disk is full.
    """
    with one_at_a_time(folder.with_name(f"{folder.name}.lock"), f"the assets in {archive}", report):
        if folder.is_dir():
            return
        report(f"unpacking {archive} to {folder} (once)")
        with made_whole(folder) as scratch:
            try:
                with _opened(archive) as tar:
                    for member in tar:
                        _check(member, scratch)
                        tar.extract(member, scratch, **SAFELY)
            except UnsafeMemberError as error:
                raise VlarigError(f"{archive} is not unpacked, since it is unsafe: {error}; replace it") from None
            except DAMAGED as error:
                raise VlarigError(f"{archive} is damaged ({error}); replace it") from None


def _check(member: tarfile.TarInfo, folder: Path) -> None:
    """Make sure that a member is a plain file or a folder within ``folder``; a bundle has nothing else.

    Raises:
        UnsafeMemberError: It is not.
    """
    if not (member.isfile() or member.isdir()):
        raise UnsafeMemberError(f"{member.name!r} is neither a file nor a folder")
    if not (folder / member.name).resolve().is_relative_to(folder.resolve()):
        raise UnsafeMemberError(f"{member.name!r} would be extracted outside the destination")


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, ready to be read; before Python 3.14 ``tarfile`` itself knows no ``.zst``."""
    if archive.suffix == ".zst":
        with zstd.open(archive, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            yield tar
    else:
        with tarfile.open(archive, "r:gz" if archive.suffix == ".gz" else "r:xz") as tar:
            yield tar
