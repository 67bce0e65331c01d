"""A site in a folder.

Every file is written by an atomic rename, and a page's data before the page. So a reader during a rebuild sees complete pages and data,
some of them old. Unchanged files are not touched, and files that are no longer part of the site are removed last. The next build
completes one that was killed. Two builds of one folder would each remove the other's files, so the first one locks the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...envs.errors import VlarigError
from ...envs.home import appearing
from .site import Site

#: This file marks a folder as an earlier site, which may be replaced.
MARKER = "vlarig-site.json"
_MARKED = b'{"format": 1, "made_by": "vlarig page"}\n'


@dataclass(frozen=True)
class Written:
    """The result of writing a site.

    Attributes:
        files: Files of the site.
        size: Bytes in all of them.
        changed: Files that are new or were changed.
        removed: Files of the earlier site that were removed.
    """

    files: int
    size: int
    changed: int
    removed: int


def write_site(
    site: Site, out: Path, done: Callable[[int], None] = lambda count: None, known: dict[str, object] | None = None
) -> Written:
    """Write a site into a folder.

    Args:
        site: The site.
        out: The folder: new, empty, or with an earlier site.
        done: Called after each file with the number of files so far.
        known: Versions of the files that the same site wrote there before, which are not made again; brought up to date.

    Raises:
        DamagedRunError: A run is damaged.
    """
    known = {} if known is None else known
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _held(out):
            size = changed = 0
            paths = {MARKER}
            for file in site.files():
                target = out / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(file.content, Path):
                    changed += _link(file.content, target, os.symlink if site.options.live else os.link)
                elif known.get(file.path) != file.version:
                    changed += _write(target, file.content())
                    known[file.path] = file.version
                paths.add(file.path)
                size += target.stat().st_size
                done(len(paths))
            for path in known.keys() - paths:
                del known[path]
            return Written(len(paths), size, changed, _remove_others(out, paths))
    except OSError as error:
        raise VlarigError(
            f"the site {out} cannot be written: {error}; check that the folder is writable, with space left"
        ) from error


def check_folder(out: Path) -> None:
    """Make sure that nothing but an earlier site is replaced."""
    if out.exists() and not out.is_dir():
        raise VlarigError(f"{out} is a file; give an --out that is a folder, or new")
    if out.is_dir() and not (out / MARKER).is_file() and any(out.iterdir()):
        raise VlarigError(f"{out} holds other files and no earlier site; give an --out that is new, empty, or an earlier site")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Mark the folder as a site, and lock it; a killed process leaves no lock."""
    with (out / MARKER).open("a+b") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VlarigError(f"the site {out} is being built already; wait until that ends, or give another --out") from None
        marker.seek(0)
        if marker.read() != _MARKED:
            marker.truncate(0)
            marker.write(_MARKED)
            marker.flush()
        yield


def _write(path: Path, content: bytes) -> bool:
    """Write a file, unless it has these bytes already; returns whether it was written."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    with appearing(path) as draft:
        draft.write_bytes(content)
    return True


def _link(source: Path, path: Path, link: Callable[[Path, Path], None]) -> bool:
    """Add a file of a run, by a link where the disk supports it; returns whether anything changed."""
    status = source.stat()
    if path.is_file():
        there = path.stat()
        same_file = (there.st_ino, there.st_dev) == (status.st_ino, status.st_dev)
        if same_file or (there.st_size, there.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return False
    with appearing(path) as draft:
        try:
            link(source.absolute(), draft)
        except OSError:
            shutil.copy2(source, draft)
    return True


def _remove_others(out: Path, paths: set[str]) -> int:
    """Remove files that are no longer part of the site."""
    removed = 0
    for folder, _, files in os.walk(out, topdown=False):
        for name in files:
            path = Path(folder, name)
            if path.relative_to(out).as_posix() not in paths:
                path.unlink()
                removed += 1
        if folder != str(out) and not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    return removed
