"""A small disk that can be filled: a file system in memory, in a mount namespace that ends with the process that holds it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BALLAST = "ballast"


@dataclass(frozen=True)
class SmallDisk:
    """Where the disk is.

    Attributes:
        inside: Its folder as processes see it that were started by :attr:`enter`.
        outside: The same folder for other processes; SQLite cannot open files by this path.
        enter: Beginning of the command line of a process that uses the disk.
    """

    inside: Path
    outside: Path
    enter: list[str]


@contextmanager
def small_disk(folder: Path, megabytes: int = 4) -> Iterator[SmallDisk | None]:
    """A disk with that much room at ``folder``, which is made; ``None`` where the system allows no mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = f"mount -t tmpfs -o size={megabytes}m,mode=700 none {shlex.quote(str(folder))} && echo ready && exec cat"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        yield None
        return
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        enter = ["nsenter", "--target", str(holder.pid), "--user", "--mount", "--preserve-credentials", "--"]
        ready = holder.stdout.readline() == b"ready\n"
        yield SmallDisk(folder, Path(f"/proc/{holder.pid}/root{folder}"), enter) if ready else None
        holder.stdin.close()


def fill(folder: Path) -> None:
    """Leave no room at all on the disk that ``folder`` is on."""
    with (folder / _BALLAST).open("ab", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


def empty(folder: Path) -> None:
    """Make room again."""
    (folder / _BALLAST).unlink(missing_ok=True)
