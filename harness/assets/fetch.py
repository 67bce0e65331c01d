"""Downloading a bundle's official files: out of the streams of upstream's archives, each one checked as it comes."""

from __future__ import annotations

import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from .check import blob_id
from .spec import BundleSpec, Source
from .unpack import DAMAGED

#: Seconds without a byte after which a download is given up.
SILENCE = 60.0
PIECE = 2**18

#: Called after each piece, with the number of files that are complete and the bytes that have come.
Watch = Callable[[int, int], None]


def download_files(spec: BundleSpec, urls: Sequence[str], folder: Path, report: Callable[[str], None], watch: Watch) -> None:
    """Write the bundle's official files to ``folder``; the rest of the archives is passed over.

    Args:
        spec: The bundle.
        urls: Where the archive of each source is: upstream's own address or a copy's, by http, https or file.
        folder: An empty folder; the caller deletes it where this fails.
        report: Called with a message for each archive.
        watch: Called with the progress.

    Raises:
        VlarigError: An archive cannot be had, ends early, lacks a file, or holds another content.
        OSError: The folder cannot be written.
    """
    files = received = 0
    for source, url in zip(spec.sources, urls, strict=True):
        owed = {origin: path for path in spec.files if (origin := source.origin(path))}
        report(f"downloading {len(owed)} files of {spec.name!r} from {url} (licence: {source.licence})")

        def add(new_files: int, new: int, files: int = files, received: int = received) -> None:
            watch(files + new_files, received + new)

        received += _take(spec, source, url, owed, folder, add)
        files += len(owed)


def _take(spec: BundleSpec, source: Source, url: str, files: dict[str, str], folder: Path, watch: Watch) -> int:
    """Write these files of a source: origin in its archive, to path in the bundle. Returns the bytes that came."""
    owed = dict(files)
    with closing(_Download(url, lambda received: watch(len(files) - len(owed), received))) as download:
        stream: Any = download  # of which tarfile reads alone
        try:
            with tarfile.open(fileobj=stream, mode="r|*", bufsize=PIECE) as archive:
                for member in archive:
                    inside = member.name.partition("/")[2]
                    content = archive.extractfile(member) if inside in owed and member.isfile() else None
                    if content is not None:
                        path = owed.pop(inside)
                        file = folder / path
                        file.parent.mkdir(parents=True, exist_ok=True)
                        with file.open("wb") as out:
                            shutil.copyfileobj(content, out)
                        blob = blob_id(file)
                        if blob != spec.files[path]:
                            raise VlarigError(
                                f"{path} in {url} is not the official file (its git blob id is {blob}, expected "
                                f"{spec.files[path]}); nothing was installed; {_other_place(source, url)}"
                            )
                    if not owed:
                        return download.received
        except DAMAGED as error:
            raise VlarigError(
                f"{url} is no archive, or a damaged one ({error}); nothing was installed; {_other_place(source, url)}"
            ) from None
    first = next(iter(owed.values()))
    raise VlarigError(
        f"{url} lacks {len(owed)} of the {len(files)} files of {spec.name!r}, such as {first}: it ended early or is another "
        f"archive; nothing was installed; {_other_place(source, url)}"
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
        """Close the connection."""
        self._response.close()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes more, none at the end.

        Raises:
            VlarigError: The connection broke, or ended before everything came.
        """
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
