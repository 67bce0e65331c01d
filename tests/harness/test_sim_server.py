"""The sim server's socket: whatever a client sends costs at most its own connection."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chaos.processes import children
from toy.suite import TOY_SUITE
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from vlarig.envs.api import Camera, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.messages import (
    LOST,
    WIRE_VERSION,
    Failure,
    Hello,
    Message,
    Start,
    Started,
    Step,
    Stepped,
    Welcome,
    decode,
    encode,
)
from vlarig.envs.wire import MAX_MESSAGE_BYTES, pack
from vlarig.harness.machines import local_server
from vlarig.harness.machines.client import SimClient
from vlarig.harness.machines.local_server import Address
from vlarig.harness.placement import SimHost, local_hosts
from vlarig.harness.simulation.config import MOST_SLOTS
from vlarig.harness.simulation.liveness import Keepalive
from vlarig.harness.simulation.memory import resident_bytes
from vlarig.harness.simulation.server import MOST_CONNECTIONS
from vlarig.harness.workplace import Workplace

EPISODE = TOY_SUITE.episodes(per_task=1)[0]
#: Its picture is too large to be sent, and takes a while to draw.
VAST = replace(EPISODE, protocol=replace(EPISODE.protocol, cameras=(Camera("ego", 4800, 4800),)))

#: Says hello as another user, and prints the answer.
STRANGER = """
import json, os, sys
from websockets.sync.client import unix_connect
path, hello = json.load(sys.stdin)
os.setuid(12345)
with unix_connect(path, compression=None) as connection:
    print(connection.recv().hex())
"""


def with_server(talk: Callable[[SimHost, Address], Awaitable[None]], steps: int = 0) -> None:
    """Run ``talk``, which may make so many steps, beside a client of the engine's own, which must not notice it."""

    async def run() -> None:
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            await host.start(0, EPISODE, Needs())
            before = await host.step(0, np.zeros((1, 3), np.float32))
            process = host.pid
            await talk(host, host.place.address)
            after = await host.step(0, np.zeros((1, 3), np.float32))
            assert (before.snapshot.step, after.snapshot.step) == (1, 2 + steps)
            assert host.pid == process

    asyncio.run(run())


async def greeted(address: Address) -> ClientConnection:
    connection = await unix_connect(address.socket_path, compression=None, max_size=MAX_MESSAGE_BYTES, ping_interval=None)
    await connection.send(encode(Hello(WIRE_VERSION, address.token)))
    assert isinstance(decode(await connection.recv()), Welcome)
    return connection


async def refusal(connection: ClientConnection) -> Failure:
    """The failure with which the server answers before it hangs up."""
    answer: Message = decode(await connection.recv())
    assert isinstance(answer, Failure)
    with pytest.raises(ConnectionClosed):
        await connection.recv()
    return answer


GARBAGE = {
    "noise": b"\xc1\x00\xff\xfe",
    "nothing": b"",
    "text": "GET / HTTP/1.1",
    "deep": b"\x91" * 100_000,
    "fields of another message": pack({"type": "Step", "id": 1}),
    "an answer": encode(Failure(1, "crash", "")),
    "a second greeting": encode(Hello(WIRE_VERSION, "")),
    "an episode that is none": pack({"type": "Start", "id": 1, "slot": 0, "episode": {}, "needs": {}}),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_costs_its_own_connection(toy_home: Path, data: bytes | str) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        connection = await greeted(address)
        await connection.send(data)
        failure = await refusal(connection)
        assert failure.kind == "bad_message"
        assert failure.message
        await (await greeted(address)).close()

    with_server(talk)


def test_a_message_above_the_limit_costs_its_own_connection(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        connection = await greeted(address)
        with pytest.raises(ConnectionClosed) as closed:
            await connection.send(b"\x00" * (MAX_MESSAGE_BYTES + 1))
            await connection.recv()
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009

    with_server(talk)


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (lambda address: Hello(WIRE_VERSION, "guess"), "the token is wrong"),
        (lambda address: Hello(WIRE_VERSION + 1, address.token), "update the older end"),
        (lambda address: Step(0, 0, np.zeros((1, 3), np.float32)), "Step before Hello"),
    ],
)
def test_who_does_not_introduce_itself_is_sent_away(toy_home: Path, hello: Callable[[Address], Message], says: str) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        connection = await unix_connect(address.socket_path, compression=None)
        await connection.send(encode(hello(address)))
        assert says in (await refusal(connection)).message

    with_server(talk)


def test_clients_have_slots_of_their_own(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        other = await SimClient.connect(address.socket_path, address.token)
        snapshot = await other.start(0, EPISODE, Needs())
        assert snapshot.step == 0
        await other.close()

    with_server(talk)


def test_a_step_without_an_episode_and_a_bad_action_are_answered_and_cost_nothing(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        connection = await greeted(address)
        await connection.send(encode(Step(7, 0, np.zeros((1, 3), np.float32))))
        answer = decode(await connection.recv())
        assert answer == Failure(7, LOST, "no episode is under way in slot 1; start it again")
        await connection.send(encode(Start(8, 0, EPISODE, Needs())))
        assert isinstance(decode(await connection.recv()), Started)
        bad = [
            (np.zeros((1, 4), np.float32), "shape [1, 4]"),
            (np.zeros((), np.float32), "shape []"),
            (np.full((1, 3), np.nan, np.float32), "nan"),
        ]
        for number, (actions, says) in enumerate(bad, 9):
            await connection.send(encode(Step(number, 0, actions)))
            answer = decode(await connection.recv())
            assert isinstance(answer, Failure)
            assert (answer.id, answer.kind) == (number, "refused")
            assert says in answer.message
        await connection.close()

    with_server(talk)


def test_an_answer_that_is_too_large_is_refused_saying_so(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        client = await SimClient.connect(address.socket_path, address.token)
        with pytest.raises(VlarigError, match=r"bytes, at most .* can be sent; ask for smaller or fewer images"):
            await client.start(0, VAST, Needs())
        await client.close()

    with_server(talk)


STEP = np.zeros((1, 3), np.float32)


@pytest.mark.parametrize(
    ("request_2", "again", "says"),
    [
        (Step(2, 0, STEP), Step(2, 0, STEP), "request 2 in slot 0 after request 2; ids must grow"),
        (Step(2, 0, STEP), Step(1, 0, STEP), "request 1 in slot 0 after request 2; ids must grow"),
        (Start(2, 0, VAST, Needs()), Step(3, 0, STEP), "request 3 in slot 0 before the answer to request 2"),
        (Step(2, 0, STEP), Start(-1, 1, EPISODE, Needs()), "request -1 in slot 1"),
        (Step(2, 0, STEP), Start(3, MOST_SLOTS, EPISODE, Needs()), f"slot {MOST_SLOTS}; slots are numbered from 0 to 1023"),
        (Step(2, 0, STEP), Start(3, -1, EPISODE, Needs()), "slot -1"),
    ],
)
def test_a_request_that_comes_twice_or_out_of_turn_advances_nothing(
    toy_home: Path, request_2: Start | Step, again: Start | Step, says: str
) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        connection = await greeted(address)
        await connection.send(encode(Start(0, 0, EPISODE, Needs())))
        assert isinstance(decode(await connection.recv()), Started)
        await connection.send(encode(request_2))
        await connection.send(encode(again))
        answers = []
        with pytest.raises(ConnectionClosed):
            while True:
                answers.append(decode(await connection.recv()))
        assert isinstance(answers[-1], Failure)
        assert (answers[-1].id, answers[-1].kind) == (-1, "bad_message")
        assert says in answers[-1].message
        assert [answer.result.snapshot.step for answer in answers[:-1] if isinstance(answer, Stepped)] in ([], [1])

    with_server(talk)


def test_requests_that_wait_take_a_bounded_room(toy_home: Path) -> None:
    """Large ones arrive while the simulator is busy."""

    async def talk(host: SimHost, address: Address) -> None:
        connection = await greeted(address)
        for slot in range(3):
            await connection.send(encode(Start(0, slot, EPISODE, Needs())))
            assert isinstance(decode(await connection.recv()), Started)
        assert host.pid is not None
        (simulator,) = children(host.pid)
        os.kill(simulator, signal.SIGSTOP)
        for slot in range(3):
            await connection.send(encode(Step(1, slot, np.zeros((MAX_MESSAGE_BYTES // 13, 3), np.float32))))
        assert "bytes of requests wait for answers" in (await refusal(connection)).message
        os.kill(simulator, signal.SIGCONT)

    with_server(talk)


def test_there_are_so_many_clients_and_no_more(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        others = [await greeted(address) for _ in range(MOST_CONNECTIONS - 1)]
        one_too_many = await unix_connect(address.socket_path, compression=None)
        assert f"{MOST_CONNECTIONS} clients are connected already" in (await refusal(one_too_many)).message
        await others.pop().close()
        others.append(await greeted(address))
        for other in others:
            await other.close()

    with_server(talk)


async def deaf(address: Address, slots: int) -> ClientConnection:
    """A client that reads nothing, and has asked for large pictures in so many slots."""
    large = replace(EPISODE, protocol=replace(EPISODE.protocol, cameras=(Camera("ego", 1000, 1000),)))
    connection = await greeted(address)
    connection.transport.pause_reading()
    for slot in range(slots):
        await connection.send(encode(Start(0, slot, large, Needs())))
    return connection


def test_of_a_client_that_reads_nothing_few_answers_are_kept_and_others_need_not_wait(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        assert host.pid is not None
        before = resident_bytes(host.pid)
        connection = await deaf(address, slots=48)
        for number in range(3):
            result = await host.step(0, np.zeros((1, 3), np.float32))
            assert result.snapshot.step == 2 + number
        assert resident_bytes(host.pid) - before < 100 * 10**6 < 48 * 1000 * 1000 * 3
        connection.transport.abort()

    with_server(talk, steps=3)


def test_a_client_that_reads_nothing_is_let_go(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "KEEPALIVE", Keepalive(0.5, 1.0))

    async def talk(host: SimHost, address: Address) -> None:
        connection = await deaf(address, slots=4)
        async with asyncio.timeout(60):
            with pytest.raises(ConnectionClosed):
                while True:
                    await connection.ping()
                    await asyncio.sleep(0.1)

    with_server(talk)


def test_the_socket_is_no_file(toy_home: Path) -> None:
    """So nothing is left of it, whoever is killed."""

    async def talk(host: SimHost, address: Address) -> None:
        assert address.socket_path.startswith("\0")

    with_server(talk)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_socket_is_for_the_user_alone(toy_home: Path) -> None:
    """A process of another user is turned away whatever it knows."""

    async def talk(host: SimHost, address: Address) -> None:
        told = json.dumps([address.socket_path, encode(Hello(WIRE_VERSION, address.token)).hex()])
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STRANGER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await stranger.communicate(told.encode())
        failure = decode(bytes.fromhex(output.decode()))
        assert isinstance(failure, Failure)
        assert failure.message == "user 12345 may not use the simulator of user 0"

    with_server(talk)


def test_an_adapter_that_disagrees_with_its_suite_stops_before_the_first_episode(toy_home: Path) -> None:
    other = replace(TOY_SUITE, embodiment=replace(TOY_SUITE.embodiment, control_frequency=20.0))

    async def run() -> None:
        async with local_hosts(Workplace.of(other), 1, Path("logs")):
            pass

    with pytest.raises(
        VlarigError, match=r"disagree on the embodiment's control_frequency: 20.0 in the suite, 10.0 in the adapter"
    ):
        asyncio.run(run())
