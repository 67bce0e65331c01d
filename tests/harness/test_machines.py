"""A sweep on other machines gives equal results, also where they come and go; only authorised clients are admitted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from certificates import certificates
from comparing import comparable, results
from conftest import Cli
from neighbour import Neighbour
from processes import workers_of
from toy.policies import ImageReader, SlowImageReader
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from vlarig.envs import backoff
from vlarig.envs.access import authorization, own_token
from vlarig.envs.errors import VlarigError
from vlarig.envs.framing import frame_of
from vlarig.envs.messages import Capacity, Failure, Message, StartWorker, Step, WorkerReady, decode, encode
from vlarig.harness import Rollouts, evaluate
from vlarig.harness.children import supervisor
from vlarig.harness.children.supervisor import MachineAwayError
from vlarig.harness.cli import main
from vlarig.harness.machines import fleets
from vlarig.harness.machines.remote_machines import MachineBusyError, RemoteMachine, find_machines, parse_address
from vlarig.results.ledger import Ledger

pytestmark = pytest.mark.usefixtures("toy_home")


@pytest.fixture
def neighbours() -> Iterator[list[Neighbour]]:
    """Two other machines."""
    machines = [Neighbour(), Neighbour()]
    try:
        yield machines
    finally:
        for machine in machines:
            with contextlib.suppress(ProcessLookupError):
                machine.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.2)


def alone(episodes: int) -> dict:
    run = Path("alone")
    evaluate("toy", ImageReader(), workers=1, num_envs=1, episodes=episodes, run=run)
    return results(run)


def attempts(run: str) -> list:
    with Ledger.open_read_only(Path(run)) as ledger:
        return ledger.attempts()


def workers(run: str) -> set[str]:
    with Ledger.open_read_only(Path(run)) as ledger:
        return {record.worker for record in ledger.records()}


@pytest.mark.slow
def test_a_sweep_over_two_machines_equals_one_on_this_machine(neighbours: list[Neighbour]) -> None:
    hosts = tuple(each.host for each in neighbours)
    assert evaluate("toy", ImageReader(), hosts=hosts, num_envs=8, episodes=8, run=Path("spread")).complete
    assert results(Path("spread")) == alone(8)
    assert {worker.partition("/")[0] for worker in workers("spread")} == {host.partition("://")[2] for host in hosts}
    output = neighbours[0].end()
    assert output.count(": ended") == output.count(": toy for 127.0.0.1") == 2


@pytest.mark.slow
def test_a_recording_over_two_machines_equals_one_on_this_machine(neighbours: list[Neighbour]) -> None:
    words = ["toy", "--policy", "toy.policies:Finder", "--episodes", "3"]
    assert (
        main(["data", "record", *words, "--to", "spread", "--num-envs", "8", "--hosts", *[each.host for each in neighbours]])
        == 0
    )
    assert main(["data", "record", *words, "--to", "alone", "--workers", "1"]) == 0
    spread, here = (
        {
            file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*.*")
            if file.suffix in (".json", ".parquet", ".mp4")
        }
        for folder in (Path("spread"), Path("alone"))
    )
    for made in (spread, here):
        del made[Path("run/manifest.json")]  # which has the hosts
    assert spread == here
    assert len(spread) > 6


def test_the_traceback_of_an_adapter_elsewhere_comes_to_the_run(toy_home: Path) -> None:
    counts = toy_home / "counts"
    counts.mkdir()
    machine = Neighbour(VLARIG_TEST_COUNTS=str(counts), VLARIG_TEST_FAULT="raise:reach_red/0:1")
    try:
        evaluate("faulty", ImageReader(), hosts=(machine.host,), tasks=("reach_red",), episodes=1, run=Path("far"))
    finally:
        machine.kill()
    (attempt,) = attempts("far")
    assert attempt.message.startswith("RuntimeError: the physics exploded (")
    assert 'raise RuntimeError("the physics exploded")' in Path("far/logs/driver.log").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_lost_machine_charges_no_episode_and_its_episodes_run_elsewhere(neighbours: list[Neighbour]) -> None:
    class Killer(SlowImageReader):
        def act(self, requests):
            if len(self.batches) == 4:
                neighbours[0].kill()
            return super().act(requests)

    hosts = tuple(each.host for each in neighbours)
    assert evaluate("toy", Killer(), hosts=hosts, num_envs=8, episodes=8, run=Path("storm")).complete
    assert results(Path("storm")) == alone(8)
    assert attempts("storm") == []


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_machines_that_are_all_lost_are_awaited(neighbours: list[Neighbour]) -> None:
    class Killer(SlowImageReader):
        def act(self, requests):
            if len(self.batches) in (4, 12):
                for each in neighbours:
                    each.kill()
                    each.start(each.port)
            return super().act(requests)

    hosts = tuple(each.host for each in neighbours)
    assert evaluate("toy", Killer(), hosts=hosts, num_envs=8, episodes=8, run=Path("storm")).complete
    assert results(Path("storm")) == alone(8)
    assert attempts("storm") == []


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_what_is_collected_of_two_suites_is_the_same_through_an_env_server_that_is_killed(neighbours: list[Neighbour]) -> None:
    def collect(fleet: fleets.Fleet, between: Callable[[], None]) -> list[list[dict]]:
        with Rollouts({"toy": 5, "two_ways": 3}, ImageReader(8), fleet=fleet, seed=3) as rollouts:
            first = rollouts.collect(4, comparable)
            between()
            return first + rollouts.collect(8, comparable)

    def kill_and_restart() -> None:
        (machine, _) = neighbours
        machine.kill()
        machine.start(machine.port)

    fleet = fleets.listed_fleet([neighbours[0].host])
    assert fleet is not None
    assert collect(fleet, kill_and_restart) == collect(fleets.LocalFleet(1), lambda: None)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_sweep_ends_when_no_machine_comes_back_and_keeps_what_it_has(
    neighbours: list[Neighbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killer(SlowImageReader):
        def act(self, requests):
            if len(self.batches) == 12:
                for each in neighbours:
                    each.kill()
            return super().act(requests)

    monkeypatch.setattr(supervisor, "LONGEST_ABSENCE", 1.0)
    hosts = tuple(each.host for each in neighbours)
    with pytest.raises(
        VlarigError, match=r"worker-\d was away for .* given up: no env server can be reached at .*finished episodes are kept"
    ):
        evaluate("toy", Killer(), hosts=hosts, num_envs=8, episodes=8, run=Path("storm"))
    assert evaluate("toy", Killer(), num_envs=4, episodes=8, run=Path("storm")).complete
    assert results(Path("storm")) == alone(8)


@pytest.mark.slow
def test_nothing_is_left_on_a_machine_whose_client_is_killed(neighbours: list[Neighbour]) -> None:
    sweep = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vlarig.harness",
            "sweep",
            "toy",
            "--policy",
            "toy.policies:SlowImageReader",
            "--hosts",
            neighbours[0].host,
            "--run",
            "killed",
        ],
    )
    deadline = time.monotonic() + 60
    while len(workers_of(neighbours[0].process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(workers_of(neighbours[0].process.pid)) == 2
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    while workers_of(neighbours[0].process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers_of(neighbours[0].process.pid) == []


def refusal(*hosts: str, **options: object) -> str:
    with pytest.raises(VlarigError) as refused:
        evaluate("toy", ImageReader(), hosts=hosts, episodes=1, run=Path("refused"), **options)
    return str(refused.value)


@pytest.mark.slow
def test_a_missing_or_wrong_token_is_refused_and_no_token_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    machine = Neighbour("--token-file", str(secret))
    try:
        assert "refuses our token; set VLARIG_ENVS_TOKEN" in refusal(machine.host)
        monkeypatch.setenv("VLARIG_ENVS_TOKEN", "open barley")
        assert "refuses our token" in refusal(machine.host)
        assert evaluate(
            "toy", ImageReader(), hosts=(machine.host,), hosts_token_file=secret, episodes=1, run=Path("run")
        ).complete
        monkeypatch.setenv("VLARIG_ENVS_TOKEN", "open sesame")
        assert evaluate("toy", ImageReader(), hosts=(machine.host,), episodes=2, run=Path("more")).complete
    finally:
        errors = machine.end()
    assert "open" not in errors
    for file in [*Path("run").rglob("*"), *Path("more").rglob("*")]:
        assert file.is_dir() or b"sesame" not in file.read_bytes()


@pytest.mark.slow
def test_on_this_machine_only_its_owner_gets_in(
    neighbours: list[Neighbour], toy_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (toy_home / "token").stat().st_mode & 0o777 == 0o600
    assert evaluate("toy", ImageReader(), hosts=(neighbours[0].host,), episodes=1, run=Path("run")).complete
    (toy_home / "token").write_text("another user's\n")
    assert "refuses our token" in refusal(neighbours[0].host)


def test_nobody_listens_to_other_machines_without_a_token() -> None:
    machine = Neighbour("--host", "0.0.0.0")
    assert machine.output == (
        "vlarig: listening on 0.0.0.0 without a token would accept every client; give --token-file or --token-env, "
        "or --host 127.0.0.1\n"
    )


def test_nobody_listens_to_other_machines_with_a_token_that_can_be_guessed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    machine = Neighbour("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"))
    assert machine.output == (
        "vlarig: listening on 0.0.0.0 with a token of 1 characters would accept a client that guesses it; expected 16 or more: "
        "(umask 077; head -c 32 /dev/urandom | base64 > token) makes one\n"
    )


@pytest.mark.slow
def test_a_machine_with_other_code_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for folder in ("toy", "toy.dist-info"):
        shutil.copytree(Path(__file__).parents[1] / folder, other / folder)
    with (other / "toy" / "env.py").open("a") as file:
        file.write("# changed\n")
    machine = Neighbour(PYTHONPATH=str(other))
    try:
        assert "runs other code of vlarig" in refusal(machine.host)
    finally:
        machine.end()


@pytest.mark.slow
def test_another_server_is_reported_in_a_sentence(neighbours: list[Neighbour]) -> None:
    assert "no env server can be reached at ws://127.0.0.1:9 (" in refusal("127.0.0.1:9")
    assert "is named twice" in refusal(neighbours[0].host, neighbours[0].host)
    secure = neighbours[0].host.replace("ws://", "wss://")
    assert "does not answer in TLS; if it serves without encryption, write ws://" in refusal(secure)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("node1", "ws://node1:8770"),
        ("node1:9000", "ws://node1:9000"),
        ("wss://node1", "wss://node1:8770"),
        ("ws://[::1]:1", "ws://[::1]:1"),
        ("10.0.0.7", "ws://10.0.0.7:8770"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert parse_address(text) == url


@pytest.mark.parametrize("text", ["http://node1", "node1:http", "", "ws://", "node1/path", "node1:99999"])
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(VlarigError, match="is no address of an env server"):
        parse_address(text)


def test_a_secret_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(VlarigError) as refused:
        parse_address("ws://me:hunter2@node1")
    assert "hunter2" not in str(refused.value)


def test_a_host_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# the cluster\nnode1\n\nwss://node2:9000  # with encryption\n")
    assert [each.url for each in find_machines((), file, None, None)] == ["ws://node1:8770", "wss://node2:9000"]
    file.write_text("# none\n")
    with pytest.raises(VlarigError, match="names no host"):
        find_machines((), file, None, None)
    with pytest.raises(VlarigError, match="cannot be read"):
        find_machines((), tmp_path / "nowhere", None, None)


@pytest.mark.slow
def test_an_encrypted_machine_is_checked(tmp_path: Path) -> None:
    made, others = certificates(tmp_path), certificates(tmp_path / "others")
    machine = Neighbour("--certificate", str(made.certificate), "--key", str(made.key))
    try:
        assert machine.host.startswith("wss://")
        options = {"hosts": (machine.host,), "episodes": 1, "run": Path("run")}
        assert evaluate("toy", ImageReader(), hosts_ca_file=made.authority, **options).complete
        for authority in (None, others.authority):
            assert "its certificate is not accepted" in refusal(machine.host, hosts_ca_file=authority)
        assert "write wss:// instead of ws://" in refusal(machine.host.replace("wss://", "ws://"))
    finally:
        machine.end()


def message(content: Message) -> bytes:
    frame = encode(content)
    return frame.head() + frame.body


#: What a client may send instead of a request for a worker: each ends its own connection, with the reason.
NONSENSE = {
    "a text": ("hello", "a text message"),
    "no message": (b"\0" * 100, ""),
    "another message": (message(Step(np.zeros((1, 3), np.float32))), "Step instead of StartWorker"),
    "an unknown suite": (message(StartWorker("toi", None, "lease")), "did you mean toy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(NONSENSE))
def test_a_client_that_talks_nonsense_loses_its_own_connection_alone(neighbours: list[Neighbour], kind: str) -> None:
    data, reason = NONSENSE[kind]

    async def talk() -> Failure:
        async with connect(neighbours[0].host, additional_headers=authorization(own_token())) as connection:
            assert isinstance(decode(frame_of(await connection.recv())), Capacity)
            await connection.send(data)
            failure = decode(frame_of(await connection.recv()))
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        assert isinstance(failure, Failure)
        return failure

    assert reason in asyncio.run(talk()).message
    assert evaluate("toy", ImageReader(), hosts=(neighbours[0].host,), episodes=1, run=Path("run")).complete


def test_silent_connections_keep_no_client_out(neighbours: list[Neighbour]) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection(("127.0.0.1", neighbours[0].port)))
        assert evaluate("toy", ImageReader(), hosts=(neighbours[0].host,), episodes=1, run=Path("run")).complete


@pytest.mark.slow
def test_a_machine_whose_workers_are_all_in_use_is_named(neighbours: list[Neighbour]) -> None:
    async def start_worker(connection: ClientConnection, lease: str) -> None:
        await connection.recv()
        await connection.send(message(StartWorker("toy", None, lease)))
        assert isinstance(decode(frame_of(await connection.recv())), WorkerReady)

    async def occupy() -> None:
        show = partial(connect, neighbours[0].host, additional_headers=authorization(own_token()))
        async with show() as first, show() as second:
            await asyncio.gather(start_worker(first, "first"), start_worker(second, "second"))
            output = await asyncio.to_thread(refusal, neighbours[0].host)
            assert "are in use; wait, or leave it out" in output
            async with show() as again:  # a client that has lost its connection is admitted again
                await start_worker(again, "second")

    asyncio.run(occupy())


@pytest.mark.slow
def test_the_page_on_many_machines_names_options_that_exist(cli: Cli) -> None:
    page = (Path(__file__).parents[2] / "docs" / "many-machines.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^(?:srun --overlap )?vlarig ((?:runs |serve )?\S+)(.*)$", page, re.MULTILINE)
    assert {command for command, _ in commands} == {"serve envs", "sweep", "runs merge", "table"}
    for command in {command for command, _ in commands}:
        known = cli(*command.split(), "--help").stdout
        for option in {option for each, words in commands if each == command for option in re.findall(r"--[a-z-]+", words)}:
            assert option in known, f"vlarig {command} has no {option}"


def test_an_env_server_that_is_busy_when_a_sweep_begins_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(RemoteMachine):
        calls = 0

        async def reach(self) -> NoReturn:
            Busy.calls += 1
            raise (MachineBusyError if Busy.calls < 3 else MachineAwayError)("it is busy" if Busy.calls < 3 else "it is away")

    monkeypatch.setattr(fleets, "BUSY_PAUSES", (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(VlarigError, match="it is away"):
        asyncio.run(fleets.survey([Busy("ws://node1:8770")]))
    assert Busy.calls == 3
