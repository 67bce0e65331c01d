"""How many workers and envs a sweep gets, with a one-line reason: by the machine's cores and free memory, and the suite's footprint.

Cores and memory are those that this process may use, within the limits of its control groups (containers, Slurm, systemd).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..benchmarks.suite import Footprint
from ..envs.api import Episode

#: Envs of a worker where memory allows them: enough that its simulator has work while the policy computes for others, and that
#: the paper's 128 rollouts ("Rollout infrastructure") are 16 cores.
ENVS_PER_WORKER = 8

#: Share of the free memory that is planned with; the rest is for the driver, the policy's batches and wrong estimates.
USABLE = 0.8

GB = 10**9

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


@dataclass(frozen=True)
class Size:
    """Workers and envs of one suite's part of a sweep.

    Attributes:
        workers: Simulator processes.
        num_envs: Envs of all workers together, and so episodes under way at a time.
        memory: Bytes that the workers are expected to take together.
        memory_share: Bytes above which a worker's simulator counts as broken, see :func:`memory_share`.
        reason: Why these numbers, in one line.
        warning: A warning for the user, in one line, or empty.
    """

    workers: int
    num_envs: int
    memory: int
    memory_share: int
    reason: str
    warning: str = ""

    @property
    def envs_per_worker(self) -> int:
        """Most envs of a worker; one less where they do not divide."""
        return math.ceil(self.num_envs / self.workers)


def choose_size(
    footprint: Footprint,
    episodes: Sequence[Episode],
    machine: Machine,
    workers: int | None = None,
    num_envs: int | None = None,
) -> Size:
    """Workers and envs for ``episodes``, at least one of which there must be.

    Args:
        footprint: Memory of the suite's simulator.
        episodes: The episodes to run.
        machine: Cores and memory.
        workers: The user's number of workers, if given.
        num_envs: The user's number of envs in all, if given.
    """
    usable = round(machine.memory * USABLE)
    most_workers = min(workers or machine.cores, len(episodes), num_envs or len(episodes))
    wanted = math.ceil(num_envs / most_workers) if num_envs else min(ENVS_PER_WORKER, math.ceil(len(episodes) / most_workers))

    def takes(count: int) -> int:
        return footprint.worker_bytes(count, _tasks_at_once(episodes, count))

    each = wanted
    while num_envs is None and each > 1 and most_workers * takes(each) > usable:
        each -= 1
    chosen_workers = most_workers
    while workers is None and chosen_workers > 1 and chosen_workers * takes(each) > usable:
        chosen_workers -= 1
        each = math.ceil(num_envs / chosen_workers) if num_envs else each
    memory = chosen_workers * takes(each)

    reasons = [] if workers else [_workers_reason(chosen_workers, machine, len(episodes), takes(each))]
    if num_envs is None:
        reasons.append(_envs_reason(each, wanted, len(episodes) < ENVS_PER_WORKER * chosen_workers))
    chosen_envs = num_envs or chosen_workers * each
    size = size_in_words(chosen_workers, chosen_envs) + " as requested" * bool(workers and num_envs)
    reason = f"{': '.join([size, ', '.join(reasons)] if reasons else [size])}; {memory_line(memory, machine.memory)}"
    warning = ""
    if memory > machine.memory:
        warning = (
            f"{size} will take about {memory / GB:.1f} GB, and {machine.memory / GB:.1f} GB are free; where memory runs out "
            "simulators are killed and restarted, so take fewer workers or envs"
        )
    return Size(chosen_workers, chosen_envs, memory, memory_share(takes(each), chosen_workers, machine), reason, warning)


def size_in_words(workers: int, num_envs: int) -> str:
    """``16 envs in 2 workers``."""
    return f"{num_envs} env{_s(num_envs)} in {workers} worker{_s(workers)}"


def memory_line(needed: int, free: int) -> str:
    """How much memory a sweep takes, and how much of it there is, in words; both in bytes."""
    return f"takes about {needed / GB:.1f} GB of memory, {free / GB:.1f} GB are free"


def memory_share(expected: int, workers: int, machine: Machine) -> int:
    """Bytes above which one of ``workers`` simulators counts as broken: its part of the free memory.

    For any number of workers it is at least twice a worker's expected memory: estimates may be too low, and a simulator that works
    must not be killed.
    """
    return max(machine.memory // workers, 2 * expected)


def _workers_reason(workers: int, machine: Machine, episodes: int, each: int) -> str:
    if workers == episodes < machine.cores:
        return f"{episodes} episode{_s(episodes)} to run"
    if workers < machine.cores:
        return f"a worker takes {each / GB:.1f} GB, so memory is for {workers}, not one a core ({machine.cores} cores)"
    return f"a worker a core ({machine.cores} core{_s(machine.cores)})"


def _envs_reason(envs: int, wanted: int, few: bool) -> str:
    if envs < wanted:
        return f"memory is for {envs} env{_s(envs)} each, not {wanted}"
    if few:
        return "an env for each episode"
    return "envs to simulate in while the policy computes for others"


def _tasks_at_once(episodes: Sequence[Episode], envs: int) -> int:
    """Tasks that a worker may have under way at a time: it keeps to one for as long as that has episodes, then begins the next."""
    tasks = len({(episode.task, episode.variant) for episode in episodes})
    per_task = max(1, len(episodes) // tasks)
    return min(tasks, envs, math.ceil(envs / per_task) + 1)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
