"""Lines of text files in any order, by their byte offsets: one pass over a file, then eight bytes a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_PIECE = 1 << 24


class Lines:
    """The lines of some files that are not blank, numbered through. It is pickled with its offsets.

    Args:
        files: The files, in order.

    Raises:
        OSError: One cannot be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._begins = [line_begins(file) for file in self.files]
        self._first = np.cumsum([0, *(len(begins) for begins in self._begins)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> bytes:
        file, begin = self._place(index)
        with self.files[file].open("rb") as text:
            text.seek(begin)
            return text.readline()

    def file_of(self, index: int) -> Path:
        return self.files[self._place(index)[0]]

    def where(self, index: int) -> str:
        """The line for a message: its file and its number there, from 1."""
        file, begin = self._place(index)
        with self.files[file].open("rb") as text:
            number = 1
            while begin > 0:
                piece = text.read(min(begin, _PIECE))
                number += piece.count(b"\n")
                begin -= len(piece) or begin
        return f"{self.files[file]} line {number}"

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        file = int(np.searchsorted(self._first, index, side="right")) - 1
        return file, int(self._begins[file][index - self._first[file]])


def line_begins(file: Path) -> np.ndarray:
    """Byte offsets, ``int64[lines]``, at which the file's lines begin, without blank ones, which have at most one character."""
    ends, size = [np.zeros(1, np.int64)], 0
    with file.open("rb") as text:
        while piece := text.read(_PIECE):
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")) + size + 1)
            size += len(piece)
    begins = np.concatenate(ends)
    lengths = np.diff(np.append(begins, size))
    return begins[lengths > 2]
