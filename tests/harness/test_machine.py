"""The cores and memory that a process may use, read from kernel files as containers and clusters have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlarig.harness.sizing import Machine

MEBI = 2**20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores with 60 GiB free, without control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    write(tmp_path, "proc/meminfo", f"MemTotal: {2**26} kB\nMemAvailable:   {60 * 2**20} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_machine_without_limits_is_used_whole(root: Path) -> None:
    assert Machine.here(root) == Machine(16, 60 * 1024 * MEBI)


def test_a_container_is_held_to_its_own_limits(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cpu.max", "250000 100000\n")
    write(root, "sys/fs/cgroup/memory.max", f"{8192 * MEBI}\n")
    write(root, "sys/fs/cgroup/memory.current", f"{3000 * MEBI}\n")
    write(root, "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {1000 * MEBI}\n")
    assert Machine.here(root) == Machine(2, 6192 * MEBI)


def test_a_job_is_held_to_the_limit_of_the_group_around_it(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    step, job = "sys/fs/cgroup/slurm/job_7/step_0", "sys/fs/cgroup/slurm/job_7"
    write(root, f"{step}/memory.max", "max\n")
    write(root, f"{step}/memory.current", "5\n")
    write(root, f"{job}/memory.max", f"{4096 * MEBI}\n")
    write(root, f"{job}/memory.current", f"{96 * MEBI}\n")
    write(root, f"{job}/cpu.max", "max 100000\n")
    assert Machine.here(root) == Machine(16, 4000 * MEBI)


def test_the_older_interface_is_read_too(root: Path) -> None:
    write(root, "proc/self/cgroup", "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n")
    write(root, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{2048 * MEBI}\n")
    write(root, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{1024 * MEBI}\n")
    write(root, "sys/fs/cgroup/memory/box/memory.stat", f"inactive_file 5\ntotal_inactive_file {100 * MEBI}\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "400000\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n")
    assert Machine.here(root) == Machine(4, 1124 * MEBI)


def test_a_group_that_is_the_hosts_and_not_mounted_here_is_passed_over(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/kubepods/pod1\n")
    write(root, "sys/fs/cgroup/memory.max", f"{512 * MEBI}\n")
    write(root, "sys/fs/cgroup/memory.current", "0\n")
    assert Machine.here(root).memory == 512 * MEBI


def test_a_group_over_its_limit_has_nothing_left(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    write(root, "sys/fs/cgroup/memory.max", "100\n")
    write(root, "sys/fs/cgroup/memory.current", "200\n")
    assert Machine.here(root) == Machine(1, 0)
