"""Sockets on which a run listens, by the kernel's tables: none that another machine could reach, unless requested."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from toy.policies import ImageReader

from vlarig.harness import evaluate


def listening(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Addresses and ports, and paths of Unix sockets, at which a process or one of its descendants takes connections or packets."""
    # Linux's /proc/net/unix: the fourth column has the flag of a socket that listens (__SO_ACCEPTCON), the seventh its inode.
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    taking = {row[6]: row[7] if len(row) > 7 else "" for row in rows if int(row[3], 16) & 0x10000}
    for each in [process, *process.children(recursive=True)]:
        for descriptor in Path(f"/proc/{each.pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inode = str(descriptor.readlink()).partition("socket:[")[2].rstrip("]")
                if inode in taking:
                    yield taking[inode], 0
        for connection in each.net_connections("inet"):
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                yield connection.laddr.ip, connection.laddr.port


class Scanning(ImageReader):
    """Records, while everything runs, the sockets on which this process and the simulators listen, but those of other tests before."""

    def __init__(self) -> None:
        super().__init__()
        self.before = set(listening(psutil.Process()))
        self.found: set[tuple[str, int]] = set()
        self.processes = 0

    def act(self, requests):
        driver = psutil.Process()
        self.found |= set(listening(driver)) - self.before
        self.processes = max(self.processes, len(driver.children(recursive=True)))
        return super().act(requests)


@pytest.mark.usefixtures("toy_home")
def test_a_sweep_listens_on_nothing() -> None:
    policy = Scanning()
    assert evaluate("toy", policy, workers=2, num_envs=4, episodes=2, run=Path("run")).complete
    assert policy.processes >= 3
    assert policy.found == set()


@pytest.mark.slow
@pytest.mark.usefixtures("tabletop")
def test_a_sweep_of_a_real_simulator_listens_on_nothing(tmp_path: Path) -> None:
    policy = Scanning()
    assert evaluate("tabletop", policy, tasks=("push_to",), episodes=1, run=tmp_path / "run").complete
    assert policy.processes >= 2
    assert policy.found == set()


@pytest.mark.usefixtures("toy_home")
@pytest.mark.parametrize(
    "words",
    [
        ("serve", "envs", "--port", "0"),
        ("serve", "policy", "--port", "0", "--policy", "random", "--embodiment", "libero_panda"),
    ],
    ids=lambda words: words[0],
)
def test_a_server_listens_on_loopback_alone_by_default(words: tuple[str, ...]) -> None:
    server = subprocess.Popen([sys.executable, "-m", "vlarig.harness", *words], stdout=subprocess.PIPE, env=os.environ)
    with server:
        assert server.stdout is not None
        assert b"127.0.0.1" in server.stdout.readline()
        found = set(listening(psutil.Process(server.pid)))
        server.terminate()
    assert len(found) == 1
    assert all(ip_address(host).is_loopback for host, _ in found)
