"""What this process may use of the machine: cores and memory, within the limits of its control groups (containers, Slurm, systemd)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Names of the files of a control group, by version of the interface: Linux, Documentation/admin-guide/cgroup-{v1/memory,v2}.rst.
_MEMORY_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
#: The part of a group's used memory that the kernel frees on demand.
_RECLAIMABLE = {1: "total_inactive_file", 2: "inactive_file"}


class Machine(NamedTuple):
    """What may be used.

    Attributes:
        cores: Cores that can be kept busy at a time, at least 1.
        memory: Bytes that are free, or that the kernel would free.
    """

    cores: int
    memory: int

    @classmethod
    def here(cls, root: Path = Path("/")) -> Machine:
        """This machine, as this process may use it; ``root`` is where ``/proc`` and ``/sys`` are."""
        cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        memory: float = _free_memory(root)
        for version, folder in _groups(root, "cpu"):
            cores = min(cores, _core_quota(folder, version))
        for version, folder in _groups(root, "memory"):
            memory = min(memory, _group_memory(folder, version))
        return cls(max(1, math.floor(cores)), int(max(0, memory)))


def _free_memory(root: Path) -> int:
    """``MemAvailable`` of ``/proc/meminfo``, in bytes; half of all memory where the kernel does not report it."""
    for line in _lines(root / "proc" / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The control groups that hold this process, the innermost first, with the version of their interface.

    Inside a container the path in ``/proc`` may be the host's, where only the container's own folder is mounted: folders that do not
    exist are passed over.
    """
    mounts = root / "sys" / "fs" / "cgroup"
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            version, mount = 1, mounts / controllers if (mounts / controllers).is_dir() else mounts / controller
        elif controllers == "":
            version, mount = 2, mounts / "unified" if (mounts / "unified").is_dir() else mounts
        else:
            continue
        folder = mount / path.lstrip("/")
        for each in [folder, *folder.parents]:
            if each.is_dir():
                yield version, each
            if each == mount:
                break


def _core_quota(folder: Path, version: int) -> float:
    """Cores that the group may keep busy; infinite without a quota."""
    if version == 2:
        words = _words(folder / "cpu.max")
    else:
        words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such file
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _group_memory(folder: Path, version: int) -> float:
    """Bytes that the group may still use; infinite without a limit."""
    limit, used = (_words(folder / name) for name in _MEMORY_FILES[version])
    if not limit or not used or not limit[0].isdigit():
        return math.inf
    reclaimable = 0
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == _RECLAIMABLE[version]:
            reclaimable = int(value)
    return int(limit[0]) - int(used[0]) + reclaimable


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
