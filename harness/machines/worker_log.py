"""A worker's log: what a sim server and its simulator print, from its first to its last words, but not all between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...envs.files import without_links

#: Bytes of the beginning, and of the end, that a log keeps. It may be this much longer before its middle is left out.
KEPT_BYTES = 2 * 2**20

LEFT_OUT = b"\n[the middle of this log is left out; its first and last %d MiB are kept]\n" % (KEPT_BYTES // 2**20)

_PIECE = 2**16


class WorkerLog:
    """A log file of bounded size, which a child process writes through a pipe.

    Start the child inside :meth:`written_by_child`, then :meth:`copy`.

    Args:
        path: The file; what is there already stays, and counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def written_by_child(self) -> Iterator[int]:
        """The file descriptor that a child inherits.

        Raises:
            OSError: The log cannot be written, or is a symbolic link.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._open():
            pass
        self._reading, writing = os.pipe()
        try:
            yield writing
        except BaseException:
            os.close(self._reading)
            raise
        finally:
            os.close(writing)

    async def copy(self) -> None:
        """Write to the file what comes, until there is no one left who could write more. What a full disk refuses is lost."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._reading, "rb", buffering=0)
        )
        with contextlib.closing(transport):
            while data := await reader.read(_PIECE):
                with contextlib.suppress(OSError):
                    self.add(data)

    def add(self, data: bytes) -> None:
        """Append to the file, and leave out its middle where it has become too long."""
        with self._open() as file:
            file.write(data)
            file.flush()
            if file.tell() > 3 * KEPT_BYTES:
                file.seek(-KEPT_BYTES, os.SEEK_END)
                last = file.read()
                file.truncate(KEPT_BYTES)
                file.write(LEFT_OUT + last)

    def _open(self) -> BinaryIO:
        return open(self._path, "a+b", opener=without_links)
