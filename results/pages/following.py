"""A site that follows its runs: new episodes, new runs, runs that come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...envs.errors import VlarigError
from ..run_files import run_name, utf8_text
from ..runs import file_statuses
from .reading import RunReader
from .site import Site, SiteOptions, hash_of

#: Seconds for which a reading counts as current.
FRESH = 1.0


class Follower:
    """Keeps a site up to date. Any thread may call.

    New ledger entries are read on request, and at most once a second; without requests nothing is read.
    """

    def __init__(self, folders: Callable[[], list[Path]], options: SiteOptions) -> None:
        """A site of the runs in the folders that ``folders`` returns, which may change between calls."""
        self._folders = folders
        self._options = options
        self._turn = threading.RLock()
        self._readers: dict[Path, RunReader] = {}
        self._unreadable: dict[Path, tuple[object, str]] = {}
        self._site = Site([], options)
        self._read_at = -FRESH

    def content(self, path: str) -> bytes | Path | None:
        """The current content at a path of the site, as from :meth:`~vlarig.results.pages.site.Site.content`."""
        with self._turn:
            self._refresh()
            return self._site.content(path)

    def state(self) -> tuple[str, str]:
        """A short name of the site's present state, and how far the runs are, in a line."""
        with self._turn:
            self._refresh()
            totals = [reader.table().total for _, reader in self._site.runs]
            finished, expected = sum(total.finished for total in totals), sum(total.expected for total in totals)
            written = sum(reader.being_written for _, reader in self._site.runs)
            runs = f"{len(totals)} run{'' if len(totals) == 1 else 's'}"
            return hash_of(
                self._site.version
            ), f"{runs}, {written} being written: {finished:,} of {expected:,} episodes finished"

    def close(self) -> None:
        with self._turn:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH:
            return
        folders = self._folders()
        for folder in [known for known in self._readers if known not in folders]:
            self._readers.pop(folder).close()
        before = list(self._site.runs)
        for folder in folders:
            self._read(folder)
        readers = [self._readers[folder] for folder in folders if folder in self._readers]
        unreadable = tuple((run_name(folder), self._unreadable[folder][1]) for folder in folders if folder in self._unreadable)
        if readers != [reader for _, reader in before] or unreadable != self._site.unreadable:
            self._site = Site(readers, self._options, unreadable)
        self._read_at = time.monotonic()

    def _read(self, folder: Path) -> None:
        """Update one run; the first page shows its errors."""
        reader = self._readers.get(folder)
        try:
            if reader is not None and reader.replaced:
                self._readers.pop(folder).close()
                reader = None
            if reader is not None:
                reader.update()
            elif self._unreadable.get(folder, (None,))[0] != _signature(folder):
                self._unreadable.pop(folder, None)
                self._readers[folder] = RunReader.open(folder)
        except VlarigError as error:
            if folder in self._readers:
                self._readers.pop(folder).close()
            self._unreadable[folder] = (_signature(folder), utf8_text(str(error)))


def _signature(folder: Path) -> tuple[object, ...]:
    """A value that changes when an unreadable run may have become readable."""
    return tuple(status and (status.st_ino, status.st_size, status.st_mtime_ns) for status in file_statuses(folder))
