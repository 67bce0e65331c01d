"""A bundle's files out of archives: upstream's, which are downloaded and checked as they come, or one that is here and is unpacked.

The library pooch would check whole archives, by hashes that GitHub does not keep the same, and unpack them from the disk. Only plain
files are taken, into a bundle's own folder; they get the modes, owners and times of new ones.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import pkgutil
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import VlarigError
from ..home import made_whole, one_at_a_time
from ..untrusted import one_line
from .spec import MADE, UNKNOWN, BundleSpec, Source, content_id, file_hash

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

#: Bytes that are downloaded, and that are written, at a time.
_DOWNLOADED, _WRITTEN = 2**18, 2**20

#: Seconds without a byte after which a download is given up.
SILENCE = 60.0

#: Called after each piece, with the number of files that are complete and the bytes that have come.
Watch = Callable[[int, int], None]


def download_files(spec: BundleSpec, urls: Sequence[str], folder: Path, report: Callable[[str], None], watch: Watch) -> None:
    """Write the bundle's official files to ``folder``, which is empty; the rest of the archives is passed over.

    ``urls`` says where the archive of each source is: upstream's own address or a copy's, by http, https or file.
    """
    files = received = 0
    for source, url in zip(spec.sources, urls, strict=True):
        owed = {origin: path for path, blob in spec.files.items() if blob != UNKNOWN and (origin := source.origin(path))}
        report(f"downloading {len(owed)} files of {spec.name!r} from {url} (licence: {source.licence})")

        def add(new_files: int, new: int, files: int = files, received: int = received) -> None:
            watch(files + new_files, received + new)

        received += _take_source(spec, source, url, owed, folder, add)
        files += len(owed)


def _take_source(spec: BundleSpec, source: Source, url: str, files: dict[str, str], folder: Path, watch: Watch) -> int:
    """Write these files and folders of a source: origin in its archive, to path in the bundle. Returns the bytes that came."""
    owed, folders = dict(files), {origin: path for origin, path in files.items() if path.endswith("/")}
    with closing(_Download(url, lambda received: watch(len(files) - len(owed), received))) as download:
        try:
            for inside, content in _members(url, download):
                above = next((origin for origin in folders if inside.startswith(_below(origin))), inside)
                if above not in owed:
                    continue
                path = owed[above] + inside.removeprefix(_below(above)) if above in folders else owed.pop(above)
                _write_file(folder, path, content)
                if above not in folders:
                    _check(spec, path, folder, source, url)
                if not owed:  # a folder may go on to the archive's end
                    return download.received
        except DAMAGED as error:
            raise VlarigError(
                f"{url} is no archive, or a damaged one ({error}); nothing was installed; {_other_place(source, url)}"
            ) from None
    for origin, path in folders.items():
        if (folder / path).is_dir():
            _check(spec, path, folder, source, url)
            del owed[origin]
    if not owed:
        return download.received
    first = next(iter(owed.values()))
    raise VlarigError(
        f"{url} lacks {len(owed)} of the {len(files)} files of {spec.name!r}, such as {first}: it ended early or is another "
        f"archive; nothing was installed; {_other_place(source, url)}"
    )


def _members(url: str, download: _Download) -> Iterator[tuple[str, IO[bytes]]]:
    """The plain files of an archive, a tar that is read as it comes or a zip: path below the one top folder, and content."""
    if url.partition("?")[0].endswith(".zip"):
        with tempfile.TemporaryFile() as file:
            while piece := download.read(_DOWNLOADED):
                file.write(piece)
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if not name.endswith("/"):
                        with archive.open(name) as content:
                            yield name.partition("/")[2], content
        return
    stream: Any = download  # of which tarfile reads alone
    with tarfile.open(fileobj=stream, mode="r|*", bufsize=_DOWNLOADED) as archive:
        for name, content in _plain_files(archive):
            yield name.partition("/")[2], content


def _plain_files(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Path and content of the plain files of a tar, which is read as it comes."""
    for member in archive:
        content = archive.extractfile(member) if member.isfile() else None
        if content is not None:
            yield member.name, content


def _below(origin: str) -> str:
    """How paths of an archive begin that are of the folder ``origin``, of which ``.`` is all."""
    return "" if origin == "." else f"{origin}/"


def _check(spec: BundleSpec, path: str, folder: Path, source: Source, url: str) -> None:
    """Make sure that a file or folder is the official one."""
    found = content_id(folder, path, spec.files[path])
    if found != spec.files[path]:
        kind = "git blob id" if len(found) == 40 else "SHA-256"
        raise VlarigError(
            f"{path} in {url} is not the official file (its {kind} is {found}, expected {spec.files[path]}); "
            f"nothing was installed; {_other_place(source, url)}"
        )


def _other_place(source: Source, url: str) -> str:
    if url != source.archive:
        return f"the official archive is {source.archive}"
    return "try again, or give a faithful copy of that archive with --url"


class _Download:
    """The bytes at an address, as tarfile reads a stream; every failure is a :class:`VlarigError` of one sentence."""

    def __init__(self, url: str, watch: Callable[[int], None]) -> None:
        self._url = url
        self._watch = watch
        self.received = 0
        if url.partition(":")[0] not in ("http", "https", "file"):
            raise VlarigError(f"--url is {url!r}; expected an address that begins with https://, http:// or file://")
        try:
            self._response = urllib.request.urlopen(url, timeout=SILENCE)  # noqa: S310 (the scheme was checked)
        except urllib.error.HTTPError as error:
            raise VlarigError(
                f"{url} answers with HTTP status {error.code} ({error.reason}); check that it is right and may be read from "
                "here, or give a copy with --url"
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(getattr(error, "reason", error)) from None
        length = self._response.headers.get("Content-Length", "")
        self._length = int(length) if length.isdecimal() else None

    def close(self) -> None:
        self._response.close()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes more, none at the end."""
        try:
            piece = self._response.read(size)
        except TimeoutError:
            raise self._ended(f"no byte came for {SILENCE:.0f} s") from None
        except (OSError, HTTPException) as error:
            raise self._ended(str(error)) from None
        self.received += len(piece)
        if not piece and self._length is not None and self.received < self._length:
            raise self._ended(f"{self._length} were announced")
        self._watch(self.received)
        return piece

    def _unreachable(self, reason: object) -> VlarigError:
        return VlarigError(
            f"{self._url} cannot be reached ({reason}); check the network, set HTTPS_PROXY where a proxy is needed, or give a "
            "copy with --url"
        )

    def _ended(self, reason: str) -> VlarigError:
        return VlarigError(
            f"the download of {self._url} ended early, after {self.received} bytes ({reason}); nothing was installed; type the "
            "command again"
        )


def find_archive(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def unpacked_name(archive: Path, name: str) -> str:
    """Name of the folder that the archive is unpacked to; another content is another folder."""
    try:
        return f"{name}-{file_hash('sha256', archive)[:12]}"
    except OSError as error:
        raise VlarigError(f"{archive} cannot be read: {error.strerror or error}; fix that, or move it away") from None


def unpack(archive: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Unpack ``archive`` to ``folder``, unless that was done before, in which case nothing is written.

    Two processes at the same time wait for each other, and what was interrupted is made again.
    """
    _make_once(folder, f"{archive}", lambda scratch: _unpack_to(archive, scratch), report)


def assemble(spec: BundleSpec, archives: Sequence[Path], folder: Path, report: Callable[[str], None]) -> None:
    """Put a bundle together from its parts, an archive for each, unless that was done before, and have it completed.

    The contents of what was completed are written to :data:`~vlarig.envs.assets.spec.MADE` in the folder.
    """

    def fill(scratch: Path) -> None:
        for part, archive in zip(spec.parts, archives, strict=True):
            _unpack_to(archive, scratch / part.folder, without_top=True)
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


def _unpack_to(archive: Path, folder: Path, without_top: bool = False) -> None:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstd.open}[archive.suffix]
    try:
        with opener(archive, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for name, content in _plain_files(tar):
                path = name.partition("/")[2] if without_top else name
                if path:
                    _write_file(folder, path, content)
    except DAMAGED as error:
        raise VlarigError(f"{archive} is damaged ({one_line(str(error))}); replace it") from None


def _write_file(folder: Path, path: str, content: IO[bytes]) -> None:
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} would be written outside of its folder")
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        shutil.copyfileobj(content, out, _WRITTEN)
