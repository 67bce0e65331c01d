"""Sim servers that die, are stopped, or do not start: each is replaced, nobody is charged, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chaos.processes import children, is_stopped
from comparing import results
from toy.policies import ImageReader
from toy.suite import STUMBLING_SUITE, TOY_SUITE

from vlarig.benchmarks.suite import Patience
from vlarig.envs.api import Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.messages import CRASH, LOST
from vlarig.harness import evaluate, placement
from vlarig.harness.machines import local_server
from vlarig.harness.machines.client import SimulatorFault
from vlarig.harness.machines.local_server import LocalServer
from vlarig.harness.machines.worker_log import KEPT_BYTES, WorkerLog
from vlarig.harness.placement import MOST_DEATHS_AT_FIRST, MOST_LOSSES, SimHost, local_hosts
from vlarig.harness.simulation.liveness import Keepalive
from vlarig.harness.workplace import Workplace
from vlarig.policies.api import Reply, Request
from vlarig.results.ledger import Ledger

EPISODE = TOY_SUITE.episodes(per_task=1)[0]
ACTIONS = np.zeros((1, 3), np.float32)

pytestmark = pytest.mark.usefixtures("toy_home")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are asked for signs of life every half second, and need not wait long to be started anew."""
    monkeypatch.setattr(local_server, "KEEPALIVE", Keepalive(0.5, 1.0))
    monkeypatch.setattr(placement, "START_MARGIN", 2.0)
    monkeypatch.setattr(placement, "FIRST_PAUSE", 0.01)


def tell_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    folder = tmp_path / "counts"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)


class Meddler(ImageReader):
    """Meddles with the driver's children when it is asked for the fifth time."""

    def __init__(self, meddle: Callable[[int], None]) -> None:
        super().__init__()
        self.meddle = meddle

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        if len(self.batches) == 4:
            for child in children(os.getpid()):
                self.meddle(child)
        return super().act(requests)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_simulator(pid: int) -> None:
    for child in children(pid):
        os.kill(child, signal.SIGKILL)
    while children(pid):
        time.sleep(0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("meddle", "workers", "slots"), [(stop, 2, 2), (kill, 2, 2), (kill_simulator, 1, 1)])
def test_a_server_or_an_idle_simulator_that_is_gone_is_replaced_and_nobody_is_charged(
    meddle: Callable[[int], None], workers: int, slots: int
) -> None:
    runs = {"undisturbed": lambda pid: None, "disturbed": meddle}
    for name, each in runs.items():
        assert evaluate("toy", Meddler(each), workers=workers, slots=slots, episodes=2, run=Path(name)).complete
    with Ledger.open_read_only(Path("disturbed")) as ledger:
        assert ledger.attempts() == []
    assert results(Path("disturbed")) == results(Path("undisturbed"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["stopped", "server-stopped"])
def test_what_is_stopped_while_it_starts_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    tell_fault(tmp_path, monkeypatch, f"{kind}::1")

    async def run() -> int:
        async with local_hosts(Workplace.of(STUMBLING_SUITE), 1, Path("logs")) as (host,):
            return (await host.start(0, EPISODE, Needs())).step

    assert asyncio.run(run()) == 0
    assert len(list((tmp_path / "counts").iterdir())) == 1


@pytest.mark.usefixtures("impatient")
def test_a_simulator_that_never_loads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_fault(tmp_path, monkeypatch, "stopped::1000")
    suite = replace(STUMBLING_SUITE, patience=Patience(load=0.5))

    async def run() -> None:
        async with local_hosts(Workplace.of(suite), 1, Path("logs")):
            pass

    with pytest.raises(VlarigError, match=r"worker-0 died 6 times .*did not load: the simulator gave no answer within 0.5 s"):
        asyncio.run(run())


@pytest.mark.usefixtures("impatient")
def test_a_server_that_cannot_be_started_is_given_up() -> None:
    workplace = Workplace.of(TOY_SUITE)
    nowhere = replace(workplace, runtime=replace(workplace.runtime, python=Path("/nowhere/python")))

    async def run() -> None:
        async with local_hosts(nowhere, 2, Path("logs")):
            pass

    with pytest.raises(VlarigError, match=r"worker-\d died 6 times .*it cannot be started .*No such file"):
        asyncio.run(run())


@contextlib.contextmanager
def killing(host: SimHost, times: int) -> Iterator[None]:
    """Kill the next servers of a host, each as soon as it is there."""

    def rage() -> None:
        for before in itertools.accumulate(range(times), lambda *_: host.pid, initial=None):
            while host.pid in (None, before) and not over.is_set():
                time.sleep(0.001)
            if host.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    kill(host.pid)

    over = threading.Event()
    thread = threading.Thread(target=rage)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_worked_survives_a_storm_in_which_a_new_one_is_given_up() -> None:
    storm = MOST_DEATHS_AT_FIRST + 2

    async def run() -> None:
        fresh = SimHost(0, LocalServer(Workplace.of(TOY_SUITE), Path("logs/fresh")))
        with killing(fresh, storm), pytest.raises(VlarigError, match="died 6 times without carrying out one request"):
            await fresh.__aenter__()
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            await host.start(0, EPISODE, Needs())
            with killing(host, storm):
                with pytest.raises(SimulatorFault) as fault:
                    while True:
                        await host.step(0, ACTIONS)
                assert fault.value.kind == LOST
            assert (await host.start(0, EPISODE, Needs())).step == 0

    asyncio.run(run())


def test_the_pauses_between_restarts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def take_note(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        host = SimHost(0, LocalServer(Workplace.of(TOY_SUITE), Path("log")))
        host._proven = True
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", take_note)
            with pytest.raises(VlarigError, match=r"died 13 times .*\(the last time: killed\)"):
                while True:
                    await host._count_death("killed")

    asyncio.run(run())
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_episode_that_takes_its_server_along_each_time_is_charged_at_last() -> None:
    async def run() -> None:
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            kinds = []
            for _ in range(MOST_LOSSES + 2):
                await host.start(0, EPISODE, Needs())
                assert host.pid is not None
                kill(host.pid)
                with pytest.raises(SimulatorFault) as fault:
                    await host.step(0, ACTIONS)
                kinds.append(fault.value.kind)
            assert kinds == [LOST] * MOST_LOSSES + [CRASH, LOST]

    asyncio.run(run())


#: A driver that says when it works, and goes on until it is ended.
DRIVER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from toy.suite import TOY_SUITE
from vlarig.envs.api import Needs
from vlarig.harness.placement import local_hosts
from vlarig.harness.workplace import Workplace

async def main():
    async with local_hosts(Workplace.of(TOY_SUITE), 2, Path("logs")) as hosts:
        for host in hosts:
            await host.start(0, TOY_SUITE.episodes(per_task=1)[0], Needs())
        print(*(host.pid for host in hosts), flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_nothing_is_left_of_a_driver_that_is_killed(tmp_path: Path) -> None:
    """Neither of its servers, one of which is stopped, nor of their simulators, nor on the disk."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}
    )
    with driver:
        assert driver.stdout is not None
        servers = [int(word) for word in driver.stdout.readline().split()]
        processes = [*servers, *(child for server in servers for child in children(server))]
        assert len(processes) == 4
        stop(servers[0])
        driver.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert list(scratch.iterdir()) == []


#: A sim server whose simulator stops itself before it has done anything.
SERVER = """
import socket, sys, time
sys.executable = sys.argv[1]
from vlarig.harness.simulation.config import ServerConfig
from vlarig.harness.simulation.process import SimulatorProcess

config = ServerConfig("", "", "toy.env:ToyEnv", {}, 60, 60, 60, None, 60, 60)
print(SimulatorProcess(config)._spawn(socket.socketpair()[1].fileno()).pid, flush=True)
time.sleep(3600)
"""


def test_a_simulator_that_was_stopped_at_its_very_beginning_dies_with_its_server(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -STOP $$\n")
    interpreter.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", SERVER, str(interpreter)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        simulator = int(server.stdout.readline())
        deadline = time.monotonic() + 30
        while not is_stopped(simulator) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_stopped(simulator)
        server.kill()
    while Path(f"/proc/{simulator}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    alive = Path(f"/proc/{simulator}").exists()
    with contextlib.suppress(ProcessLookupError):
        kill(simulator)
    assert not alive


#: A sweep whose servers and driver ask each other for signs of life every half second.
SWEEP = """
from pathlib import Path
from toy.policies import SlowImageReader
from vlarig.harness import evaluate
from vlarig.harness.machines import local_server
from vlarig.harness.simulation.liveness import Keepalive

local_server.KEEPALIVE = Keepalive(0.5, 1.0)
evaluate("toy", SlowImageReader(), workers=2, slots=2, episodes=6, run=Path("stopped"))
"""


def test_a_driver_that_was_stopped_goes_on_and_nobody_is_charged() -> None:
    """It is stopped for longer than its servers are patient."""
    evaluate("toy", ImageReader(), workers=2, slots=2, episodes=6, run=Path("undisturbed"))
    with subprocess.Popen([sys.executable, "-c", SWEEP]) as driver:
        deadline = time.monotonic() + 60
        while not _finished(Path("stopped")) and time.monotonic() < deadline:
            time.sleep(0.02)
        stop(driver.pid)
        time.sleep(3)
        os.kill(driver.pid, signal.SIGCONT)
        assert driver.wait(120) == 0
    with Ledger.open_read_only(Path("stopped")) as ledger:
        assert ledger.attempts() == []
    assert results(Path("stopped")) == results(Path("undisturbed"))


def _finished(run: Path) -> int:
    try:
        with Ledger.open_read_only(run) as ledger:
            return len(ledger.finished_keys())
    except VlarigError:
        return 0


def test_a_simulator_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "VLARIG_ENVS_TOKEN",
        "VLARIG_POLICY_TOKEN",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
    )
    secrets += ("WANDB_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "UV_INDEX_OURS_PASSWORD", "my_secret", "SSH_AUTH_SOCK")
    plain = ("TOKENIZERS_PARALLELISM", "MUJOCO_GL", "KEYBOARD", "SECRETARY")
    for name in (*secrets, *plain):
        monkeypatch.setenv(name, "hunter2")
    environment = Workplace.of(TOY_SUITE).environment()
    assert {name: environment.get(name) for name in secrets} == dict.fromkeys(secrets)
    assert {name: environment.get(name) for name in plain} == dict.fromkeys(plain, "hunter2")


def test_what_a_simulator_detached_ends_with_it_and_its_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_fault(tmp_path, monkeypatch, "none::0")
    suite = replace(TOY_SUITE, adapter="toy.faulty:DetachingEnv")

    async def run() -> int:
        async with local_hosts(Workplace.of(suite), 1, Path("logs")):
            (detached,) = (tmp_path / "counts").iterdir()
            os.kill(int(detached.name), 0)
        return int(detached.name)

    detached = asyncio.run(run())
    deadline = time.monotonic() + 10
    while is_alive(detached):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (log,) = Path("logs").iterdir()
    text = log.read_bytes()
    assert len(text) < 3 * KEPT_BYTES + 2**17
    assert text.startswith(b"first words")
    assert b"[the middle of this log is left out" in text
    assert b"last words" in text


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_log_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "worker-0.log").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        WorkerLog(tmp_path / "worker-0.log").add(b"words")
    assert (tmp_path / "precious").read_text() == "mine"
