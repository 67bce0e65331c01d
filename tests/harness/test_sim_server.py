"""The sim server's socket: whatever a client sends costs at most its own connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy.suite import TOY_SUITE
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from vlarig.envs.api import Camera, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.messages import LOST, WIRE_VERSION, Failure, Hello, Message, Start, Started, Step, Welcome, decode, encode
from vlarig.envs.wire import MAX_MESSAGE_BYTES, pack
from vlarig.harness.client import SimClient
from vlarig.harness.placement import Address, SimHost, local_hosts
from vlarig.harness.workplace import Workplace

EPISODE = TOY_SUITE.episodes(per_task=1)[0]


def with_server(talk: Callable[[SimHost, Address], Awaitable[None]]) -> None:
    """Run ``talk`` beside a client of the engine's own, which must not notice it."""

    async def run() -> None:
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            await host.start(0, EPISODE, Needs())
            before = await host.step(0, np.zeros((1, 3), np.float32))
            process = host.pid
            await talk(host, host.address)
            after = await host.step(0, np.zeros((1, 3), np.float32))
            assert (before.snapshot.step, after.snapshot.step) == (1, 2)
            assert host.pid == process

    asyncio.run(run())


async def greeted(address: Address) -> ClientConnection:
    connection = await unix_connect(address.socket_path, compression=None, max_size=MAX_MESSAGE_BYTES)
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
    "fields of another message": pack(["Step", {"id": 1}]),
    "an answer": encode(Failure(1, "crash", "")),
    "a second greeting": encode(Hello(WIRE_VERSION, "")),
    "an episode that is none": pack(["Start", {"id": 1, "slot": 0, "episode": {}, "needs": {}}]),
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
        for actions, says in [(np.zeros((1, 4), np.float32), "shape [1, 4]"), (np.full((1, 3), np.nan, np.float32), "nan")]:
            await connection.send(encode(Step(9, 0, actions)))
            answer = decode(await connection.recv())
            assert isinstance(answer, Failure)
            assert (answer.id, answer.kind) == (9, "refused")
            assert says in answer.message
        await connection.close()

    with_server(talk)


def test_an_answer_that_is_too_large_is_refused_saying_so(toy_home: Path) -> None:
    vast = replace(EPISODE, protocol=replace(EPISODE.protocol, cameras=(Camera("ego", 4800, 4800),)))

    async def talk(host: SimHost, address: Address) -> None:
        client = await SimClient.connect(address.socket_path, address.token)
        with pytest.raises(VlarigError, match=r"bytes, at most .* can be sent; ask for smaller or fewer images"):
            await client.start(0, vast, Needs())
        await client.close()

    with_server(talk)


def test_the_socket_is_for_the_user_alone(toy_home: Path) -> None:
    async def talk(host: SimHost, address: Address) -> None:
        assert Path(address.socket_path).parent.stat().st_mode & 0o077 == 0

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
