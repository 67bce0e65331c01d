"""A site that follows its runs: new episodes, new runs, runs that come and go. The files are those of :mod:`.writing`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...envs.errors import VlarigError
from ..run_files import run_name, utf8_text
from ..runs import file_statuses
from .reading import DamagedRunError, RunReader
from .site import Site, SiteOptions, hash_of
from .writing import write_site

#: Seconds for which a reading counts as current.
FRESH = 1.0

#: A site that takes a second to bring up to date is brought up to date in every tenth second.
SHARE = 0.1


class Follower:
    """Keeps a site in a folder up to date. Any thread may call.

    New ledger entries are read on request, and at most once a second; without requests nothing is read. A file is made again where
    what it shows has changed.

    Attributes:
        out: The site's folder.
    """

    def __init__(self, folders: Callable[[], list[Path]], options: SiteOptions, out: Path) -> None:
        """A site in ``out`` of the runs in the folders that ``folders`` returns, which may change between calls."""
        self.out = out
        self._folders = folders
        self._options = options
        self._turn = threading.RLock()
        self._readers: dict[Path, RunReader] = {}
        self._unreadable: dict[Path, tuple[object, str]] = {}
        self._site = Site([], options)
        self._written: tuple[object, ...] | None = None
        self._files: dict[str, object] = {}
        self._due = -FRESH

    def state(self) -> tuple[str, str]:
        """A short name of the site's present state, and how far the runs are, in a line."""
        with self._turn:
            self.refresh()
            totals = [reader.table().total for _, reader in self._site.runs]
            finished, expected = sum(total.finished for total in totals), sum(total.expected for total in totals)
            written = sum(reader.being_written for _, reader in self._site.runs)
            runs = f"{len(totals)} run{'' if len(totals) == 1 else 's'}"
            return hash_of(
                self._site.version
            ), f"{runs}, {written} being written: {finished:,} of {expected:,} episodes finished"

    def refresh(self) -> None:
        """Bring the folder up to date, if that is due."""
        with self._turn:
            begun = time.monotonic()
            if begun < self._due:
                return
            folders = self._folders()
            self._read_all(folders)
            while self._written != self._site.version:
                try:
                    write_site(self._site, self.out, known=self._files)
                    self._written = self._site.version
                except DamagedRunError as damage:  # some damage shows only where an episode's page is made
                    self._refuse(damage.reader.folder, str(damage))
                    self._show(folders)
            ended = time.monotonic()
            self._due = ended + max(FRESH, (ended - begun) / SHARE)

    def close(self) -> None:
        with self._turn:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def _read_all(self, folders: list[Path]) -> None:
        for folder in [known for known in self._readers if known not in folders]:
            self._readers.pop(folder).close()
        self._unreadable = {folder: why for folder, why in self._unreadable.items() if folder in folders}
        for folder in folders:
            self._read(folder)
        self._show(folders)

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
            self._refuse(folder, str(error))

    def _refuse(self, folder: Path, reason: str) -> None:
        if folder in self._readers:
            self._readers.pop(folder).close()
        self._unreadable[folder] = (_signature(folder), utf8_text(reason))

    def _show(self, folders: list[Path]) -> None:
        """Have the site show the runs that can be read now, and name the others."""
        readers = [self._readers[folder] for folder in folders if folder in self._readers]
        unreadable = tuple((run_name(folder), self._unreadable[folder][1]) for folder in folders if folder in self._unreadable)
        if readers != [reader for _, reader in self._site.runs] or unreadable != self._site.unreadable:
            self._site = Site(readers, self._options, unreadable)


def _signature(folder: Path) -> tuple[object, ...]:
    """A value that changes when an unreadable run may have become readable."""
    return tuple(status and (status.st_ino, status.st_size, status.st_mtime_ns) for status in file_statuses(folder))
