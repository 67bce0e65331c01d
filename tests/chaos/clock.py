"""The realtime clock of a storm's processes, which can be set while they run; the monotonic clock is left alone."""

from __future__ import annotations

import struct
from pathlib import Path

from chaos.preload import compile_preload

#: Furthest that a jump sets the clock off, in seconds: a day and a half, either way.
FURTHEST = 36 * 3600


def make_clock(folder: Path) -> dict[str, str]:
    """Make a clock in ``folder``, which shows the right time at first; returns the environment variables of processes that use it."""
    offset = folder / "clock"
    if not offset.exists():
        offset.write_bytes(struct.pack("=q", 0))
    return compile_preload("clock", folder) | {"VLARIG_TEST_CLOCK": str(offset)}


def jump(folder: Path, seconds: int) -> None:
    """Set the clock off by ``seconds`` from the right time, at once, for all processes that use it."""
    with (folder / "clock").open("r+b") as file:
        file.write(struct.pack("=q", seconds))
