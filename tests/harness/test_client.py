"""The driver's end of a connection, against servers that answer twice, late, something else, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from toy.env import TOY_POINT, ToyEnv
from toy.suite import TOY_SUITE
from websockets.asyncio.server import ServerConnection, unix_serve

from vlarig.envs.api import Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.messages import (
    BAD_MESSAGE,
    ENV_ERROR,
    REFUSED,
    WIRE_VERSION,
    Failure,
    Hello,
    Start,
    Started,
    Step,
    Stepped,
    Welcome,
    answered_id,
    decode,
    encode,
)
from vlarig.envs.wire import MAX_MESSAGE_BYTES
from vlarig.harness.machines.client import ServerGone, SimClient, SimulatorFault
from vlarig.harness.placement import local_hosts
from vlarig.harness.simulation.config import MOST_SLOTS
from vlarig.harness.simulation.liveness import Keepalive
from vlarig.harness.workplace import Workplace

EPISODE = TOY_SUITE.episodes(per_task=1)[0]
SNAPSHOT = ToyEnv().open(EPISODE, Needs())
ACTIONS = np.zeros((1, 3), np.float32)

Answer = Callable[[ServerConnection, Start | Step], Awaitable[None]]


@contextlib.asynccontextmanager
async def connected(answer: Answer) -> AsyncIterator[SimClient]:
    """A client of a server that answers each request with ``answer``."""

    async def handle(connection: ServerConnection) -> None:
        assert isinstance(decode(await connection.recv()), Hello)
        await connection.send(encode(Welcome(WIRE_VERSION, TOY_POINT)))
        async for data in connection:
            await answer(connection, decode(data))

    path = f"\0vlarig-test-{secrets.token_hex(8)}"
    async with unix_serve(handle, path, max_size=MAX_MESSAGE_BYTES, compression=None):
        client = await SimClient.connect(path, "")
        try:
            yield client
        finally:
            await client.close()


async def as_asked(connection: ServerConnection, request: Start | Step) -> None:
    """The right answer; its instruction tells which request it is for."""
    snapshot = type(SNAPSHOT)(**vars(SNAPSHOT) | {"instruction": str(request.id)})
    await connection.send(encode(Started(request.id, snapshot)))


def test_answers_that_come_twice_late_or_unasked_for_are_ignored() -> None:
    async def thrice(connection: ServerConnection, request: Start | Step) -> None:
        await connection.send(encode(Failure(request.id + 1000, REFUSED, "to something that was never asked")))
        if request.id > 0:
            await connection.send(encode(Failure(request.id - 1, REFUSED, "late")))
        await as_asked(connection, request)
        await as_asked(connection, request)

    async def run() -> list[str]:
        async with connected(thrice) as client:
            return [(await client.start(number % 2, EPISODE, Needs())).instruction for number in range(6)]

    assert asyncio.run(run()) == [str(number) for number in range(6)]


def test_an_answer_that_cannot_be_read_is_its_requests_fault_alone() -> None:
    async def broken_once(connection: ServerConnection, request: Start | Step) -> None:
        if request.slot == 0:
            await connection.send(encode(Failure(request.id, ENV_ERROR, "\0" * 100))[:-20])
        else:
            await as_asked(connection, request)

    async def run() -> None:
        async with connected(broken_once) as client:
            with pytest.raises(SimulatorFault, match="the env's answer cannot be read") as fault:
                await client.start(0, EPISODE, Needs())
            assert fault.value.kind == ENV_ERROR
            assert (await client.start(1, EPISODE, Needs())).instruction == "1"

    asyncio.run(run())


@pytest.mark.parametrize(
    "noise", [b"", b"\x92", b"\0\0\0\x01\xc1", encode(Hello(1, "")), encode(Failure(-1, BAD_MESSAGE, "?"))]
)
def test_after_noise_the_connection_is_given_up(noise: bytes) -> None:
    async def babble(connection: ServerConnection, request: Start | Step) -> None:
        await connection.send(noise)

    async def run() -> None:
        async with connected(babble) as client:
            both = [client.start(slot, EPISODE, Needs()) for slot in range(2)]
            for outcome in await asyncio.gather(*both, return_exceptions=True):
                assert isinstance(outcome, ServerGone)
            with pytest.raises(ServerGone):
                await client.start(2, EPISODE, Needs())

    asyncio.run(run())


def test_an_answer_of_the_wrong_kind_is_a_fault() -> None:
    async def run() -> None:
        async with connected(as_asked) as client:
            with pytest.raises(SimulatorFault, match="answered Step with Started"):
                await client.step(0, ACTIONS)

    asyncio.run(run())


def test_a_slots_next_request_waits_for_the_answer_that_nobody_waits_for_any_more() -> None:
    async def slowly(connection: ServerConnection, request: Start | Step) -> None:
        if request.id == 0:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.recv(), 0.5)
        await as_asked(connection, request)

    async def run() -> str:
        async with connected(slowly) as client:
            given_up = asyncio.ensure_future(client.start(0, EPISODE, Needs()))
            await asyncio.sleep(0.1)
            given_up.cancel()
            return (await client.start(0, EPISODE, Needs())).instruction

    assert asyncio.run(run()) == "1"


def test_there_are_so_many_slots_and_no_more() -> None:
    async def run() -> None:
        async with connected(as_asked) as client:
            with pytest.raises(VlarigError, match=f"at most {MOST_SLOTS}; take more workers"):
                await client.start(MOST_SLOTS, EPISODE, Needs())

    asyncio.run(run())


@pytest.mark.parametrize("rows", [1, 700_000], ids=["an idle line", "a full line"])
def test_a_server_that_is_stopped_is_noticed(toy_home: Path, rows: int) -> None:
    """Also where more has been sent than it ever read: websockets' own keepalive would wait for ever there."""

    async def run() -> None:
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            client = await SimClient.connect(*host.place.address, Keepalive(0.3, 1.0))
            await client.start(0, EPISODE, Needs())
            assert host.place._process is not None
            host.place._process.send_signal(signal.SIGSTOP)
            with pytest.raises(ServerGone):
                await asyncio.wait_for(client.step(0, np.zeros((rows, 3), np.float32)), 60)
            await asyncio.wait_for(client.close(), 60)
            host.place._process.send_signal(signal.SIGCONT)

    asyncio.run(run())


def test_a_connection_can_be_closed_whose_server_reads_nothing(toy_home: Path) -> None:
    async def run() -> None:
        async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
            client = await SimClient.connect(*host.place.address)
            await client.start(0, EPISODE, Needs())
            assert host.place._process is not None
            host.place._process.send_signal(signal.SIGSTOP)
            step = asyncio.ensure_future(client.step(0, np.zeros((700_000, 3), np.float32)))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(client.close(), 30)
            with pytest.raises(ServerGone):
                await step

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [Started(7, SNAPSHOT), Stepped(2**40, None), Failure(0, "crash", "x"), Failure(-1, "crash", "")]
)
def test_an_answers_id_is_told_by_its_beginning(answer: Started | Stepped | Failure) -> None:
    data = encode(answer)
    assert answered_id(data) == answer.id
    assert answered_id(data[:64]) == answer.id
    for cut in range(24):
        assert answered_id(data[:cut]) in (None, answer.id)


@pytest.mark.parametrize("data", [b"", b"\0" * 200, b"\xff" * 200, encode(Step(3, 0, ACTIONS)), encode(Hello(3, ""))])
def test_what_is_no_answer_has_no_id(data: bytes) -> None:
    assert answered_id(data) is None
