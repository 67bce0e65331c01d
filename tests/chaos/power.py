"""The effects of a power loss, or a worse accident, on a ledger: applied to the files of a run whose driver is dead."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from vlarig.results.schema import LEDGER_NAME

#: Sizes of SQLite's write-ahead log (sqlite.org/fileformat2.html, section 4.1): its header, and that of each frame.
HEADER, FRAME_HEADER = 32, 24
#: SQLite's default page size, which the ledger uses.
PAGE = 4096
#: Where SQLite's index of that log says how many of its frames a checkpoint may have copied (sqlite.org/walformat.html, section 2.1).
ATTEMPTED = 128
#: A disk writes whole sectors.
SECTOR = 512


def journal_of(run: Path) -> Path:
    """The ledger's write-ahead log."""
    return run / f"{LEDGER_NAME}-wal"


def cut_journal(run: Path, rng: random.Random) -> int:
    """Cut the write-ahead log off at any byte that was not synced before a checkpoint; returns how many bytes are left.

    That is harder than a power loss, in which a disk keeps what it acknowledged. But frames of which a checkpoint may have copied
    pages into the main file are kept: SQLite has the log synced before, and would repair the main file from them.
    """
    path = journal_of(run)
    size = path.stat().st_size if path.exists() else 0
    if size:
        size = rng.randint(min(size, _synced(run)), size)
        with path.open("r+b") as file:
            file.truncate(size)
    return size


def _note_attempt(run: Path) -> None:
    """Have the index say that a checkpoint may have copied every frame."""
    frames = max(0, journal_of(run).stat().st_size - HEADER) // (FRAME_HEADER + PAGE) if journal_of(run).exists() else 0
    index = run / f"{LEDGER_NAME}-shm"
    if frames and index.exists():
        with index.open("r+b") as file:
            file.seek(ATTEMPTED)
            file.write(struct.pack("=I", frames))


def _synced(run: Path) -> int:
    """Bytes of the write-ahead log of which the main file may hold copies."""
    index = run / f"{LEDGER_NAME}-shm"
    data = index.read_bytes()[ATTEMPTED : ATTEMPTED + 4] if index.exists() else b""
    frames = struct.unpack("=I", data)[0] if len(data) == 4 else 0
    return HEADER + frames * (FRAME_HEADER + PAGE) if frames else 0


def tear_checkpoint(run: Path, rng: random.Random) -> int:
    """Leave the main file as a power loss in the middle of a checkpoint leaves it.

    SQLite syncs the log before a checkpoint copies its pages, and records the checkpoint's start in the log's index, so the log is
    whole. Any of the copied pages may have reached the disk, some by a part of their sectors. Returns how many did.
    """
    _note_attempt(run)
    pages, page_size = committed_pages(journal_of(run))
    chosen = [number for number in sorted(pages) if rng.random() < 0.5]
    with (run / LEDGER_NAME).open("r+b") as file:
        for number in chosen:
            for sector in range(0, page_size, SECTOR):
                if rng.random() < 0.8:
                    file.seek((number - 1) * page_size + sector)
                    file.write(pages[number][sector : sector + SECTOR])
    return len(chosen)


def committed_pages(journal: Path) -> tuple[dict[int, bytes], int]:
    """The latest committed content of each page in a write-ahead log, and the size of a page."""
    data = journal.read_bytes() if journal.exists() else b""
    if len(data) < HEADER:
        return {}, 0
    page_size = struct.unpack(">I", data[8:12])[0]
    salts = data[16:24]
    committed: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    for frame in range(HEADER, len(data) - FRAME_HEADER - page_size + 1, FRAME_HEADER + page_size):
        number, is_commit = struct.unpack(">II", data[frame : frame + 8])
        if data[frame + 8 : frame + 16] != salts:
            break  # a frame of the log's earlier round
        pending[number] = data[frame + FRAME_HEADER : frame + FRAME_HEADER + page_size]
        if is_commit:
            committed |= pending
            pending = {}
    return committed, page_size


def destroy(run: Path, rng: random.Random) -> None:
    """Cut a page or more off the main file, and lose the write-ahead log."""
    path = run / LEDGER_NAME
    with path.open("r+b") as file:
        file.truncate(rng.randint(0, path.stat().st_size - PAGE))
    for name in (f"{LEDGER_NAME}-wal", f"{LEDGER_NAME}-shm"):
        (run / name).unlink(missing_ok=True)
