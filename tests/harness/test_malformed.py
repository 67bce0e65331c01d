"""Hundreds of hostile clients beside a good one: each costs at most its own connection, and none leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chaos.processes import children
from fuzzing.campaign import broken_messages, most_memory
from fuzzing.decoders import all_decoders
from fuzzing.hostile import (
    BINARY,
    FRAMES,
    HANDSHAKES,
    OPEN,
    PATIENCE,
    TEXT,
    Attack,
    all_at_once,
    flood,
    frame,
    hear_out,
    lingering,
    messages_until_the_end,
    open_files,
    settled,
)
from toy.suite import TOY_SUITE
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from vlarig.envs.api import ChunkResult, Needs
from vlarig.envs.messages import (
    BAD_MESSAGE,
    WIRE_VERSION,
    Failure,
    Hello,
    Start,
    Step,
    Stepped,
    Welcome,
    decode,
    encode,
)
from vlarig.envs.wire import MAX_MESSAGE_BYTES, pack
from vlarig.harness.machines.local_server import Address
from vlarig.harness.placement import SimHost, local_hosts
from vlarig.harness.workplace import Workplace

EPISODES = TOY_SUITE.episodes(per_task=4)
STEP = np.zeros((1, 3), np.float32)

#: Hostile connections at a time: a server has a bound on its clients, and the good one may have to come back.
AT_A_TIME = 8

#: MB that a server may grow by: the largest message as it arrives, put together and taken apart, for two who send one at a time.
GROWTH = 450


async def play(host: SimHost) -> list[bytes]:
    """All that is shown of some episodes in two slots, but for the times that it took."""

    async def in_slot(slot: int) -> list[bytes]:
        shown = []
        for number, episode in enumerate(EPISODES[slot::2]):
            draw = np.random.default_rng(number)
            result = ChunkResult((), await host.start(slot, episode, Needs(final_frame=True)))
            while True:
                shown.append(encode(Stepped(0, replace(result, snapshot=replace(result.snapshot, seconds={})))))
                if result.rows and result.over:
                    break
                result = await host.step(slot, draw.uniform(-1, 1, (8, 3)).astype(np.float32))
        return shown

    first, second = await asyncio.gather(in_slot(0), in_slot(1))
    return first + second


@asynccontextmanager
async def server() -> AsyncIterator[SimHost]:
    async with local_hosts(Workplace.of(TOY_SUITE), 1, Path("logs")) as (host,):
        yield host


async def connected(address: Address) -> ClientConnection:
    return await unix_connect(address.socket_path, compression=None, max_size=None, close_timeout=1)


async def greeted(address: Address) -> ClientConnection:
    """A connection that was let in, if not at once: those who left before may still be counted."""
    async with asyncio.timeout(PATIENCE):
        while True:
            connection = await connected(address)
            with contextlib.suppress(ConnectionClosed):
                await connection.send(encode(Hello(WIRE_VERSION, address.token)))
                answer = decode(await connection.recv())
                if isinstance(answer, Welcome):
                    return connection
                assert isinstance(answer, Failure)
                assert "clients are connected already" in answer.message
            await asyncio.sleep(0.1)


def check_failure(answer: bytes | str) -> None:
    """Make sure that a client was told in one line what was wrong."""
    assert isinstance(answer, bytes)
    failure = decode(answer)
    assert isinstance(failure, Failure), failure
    assert (failure.id, failure.kind) == (-1, BAD_MESSAGE)
    assert 0 < len(failure.message) <= 400
    assert failure.message.isprintable()


def attacks(address: Address) -> list[Attack]:
    """Hostile clients; each looks itself whether it was turned away as it should."""
    steps = [
        *(encode(Step(1, 0, STEP)), encode(Start(1, 0, EPISODES[0], Needs()))),
        *(encode(Failure(1, "crash", "x")), encode(Welcome(WIRE_VERSION, TOY_SUITE.embodiment))),
    ]
    strangers = [
        *(
            encode(Hello(WIRE_VERSION, token))
            for token in ("", "x", "guess" * 1000, address.token[:-1], address.token + "0", "\x00")
        ),
        *(encode(Hello(version, address.token)) for version in (0, -1, WIRE_VERSION + 1, 2**63)),
        *(
            pack({"type": "Hello", **fields})
            for fields in ({}, {"version": WIRE_VERSION}, {"version": WIRE_VERSION, "token": None})
        ),
        *(*steps, b"", b"\x00" * 4, b"\xff" * 100, MAX_MESSAGE_BYTES * b"\x00"),
    ]
    known = [
        *(
            pack(value)
            for value in (
                3,
                None,
                [],
                {},
                {"type": "Goodbye"},
                {"type": "Step"},
                {"type": ["Step"]},
                ["Step", {}],
                {"Step": {}},
            )
        ),
        *steps[2:],
        encode(Hello(WIRE_VERSION, address.token)),
        *broken_messages(all_decoders()[0], 150),
        MAX_MESSAGE_BYTES * b"\x00",
    ]

    async def shake_no_hands(data: bytes) -> None:
        answer = await hear_out(*await asyncio.open_unix_connection(address.socket_path), data)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer

    async def break_a_frame(data: bytes, door: Callable[[Address], Awaitable[ClientConnection]]) -> None:
        connection = await door(address)
        connection.transport.write(data)
        for answer in await messages_until_the_end(connection):
            check_failure(answer)

    async def send(data: bytes | str, door: Callable[[Address], Awaitable[ClientConnection]]) -> None:
        connection = await door(address)
        with contextlib.suppress(ConnectionClosed):  # before it had read all
            await connection.send(data)
        (answer,) = await messages_until_the_end(connection)
        check_failure(answer)

    async def leave(data: bytes) -> None:
        """Go away in the middle of everything."""
        connection = await greeted(address)
        for slot in range(4):
            await connection.send(encode(Start(slot, slot, EPISODES[0], Needs())))
        connection.transport.write(data)
        connection.transport.abort()

    return [
        *(lambda data=data: shake_no_hands(data) for data in HANDSHAKES.values()),
        *(lambda data=data, door=door: break_a_frame(data, door) for data in FRAMES.values() for door in (connected, greeted)),
        *(lambda data=data: send(data, connected) for data in strangers),
        *(lambda data=data: send(data, greeted) for data in known),
        *(lambda text=text, door=door: send(text, door) for text in ("hello", "", "{}") for door in (connected, greeted)),
        *(
            lambda data=data: leave(data)
            for data in (b"", frame(BINARY, b"", length=1000), frame(TEXT, b"x", final=False)) * 10
        ),
    ]


async def slots_of_a_new_client(address: Address, count: int) -> list[int]:
    """The simulator's numbers of the slots that a client gets: a slot without an episode is named in a refusal."""
    connection = await greeted(address)
    numbers = []
    for slot in range(count):
        await connection.send(encode(Step(slot, slot, STEP)))
        failure = decode(await connection.recv())
        assert isinstance(failure, Failure)
        numbers.append(int(failure.message.partition(" in slot ")[2].split(";")[0]))
    await connection.close()
    return numbers


def test_pings_whose_answers_nobody_reads_do_not_pile_up(toy_home: Path) -> None:
    async def run() -> None:
        async with server() as host:
            assert host.pid is not None
            memory = most_memory(host.pid)
            line = await asyncio.open_unix_connection(host.place.address.socket_path, limit=1024)
            line[1].write(OPEN + frame(BINARY, encode(Hello(WIRE_VERSION, host.place.address.token))))
            await line[0].readuntil(b"\r\n\r\n")
            await flood(line)
            assert most_memory(host.pid) - memory <= 20
            assert (await host.start(0, EPISODES[0], Needs())).step == 0
            line[1].transport.abort()

    asyncio.run(run())


@pytest.mark.slow
def test_hostile_clients_cost_at_most_their_own_connections(toy_home: Path) -> None:
    async def run() -> None:
        async with server() as host:
            undisturbed = await play(host)
            pid, address = host.pid, host.place.address
            assert pid is not None
            simulator, files, memory = children(pid), open_files(pid), most_memory(pid)
            assert await slots_of_a_new_client(address, 1) == [2]

            def line() -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
                return asyncio.open_unix_connection(address.socket_path, limit=1024)

            hello = frame(BINARY, encode(Hello(WIRE_VERSION, address.token)))
            unfinished = [b"", OPEN[:50], OPEN, OPEN + hello[:-3], OPEN + hello + frame(BINARY, b"x", final=False)]
            silent = asyncio.create_task(messages_until_the_end(await connected(address)))
            async with lingering(line, unfinished):
                attacked = asyncio.create_task(all_at_once(attacks(address), AT_A_TIME))
                rounds = 0
                while not attacked.done() or not rounds:
                    assert await play(host) == undisturbed
                    rounds += 1
                assert await attacked >= 250
                (answer,) = await silent
                assert decode(answer) == Failure(-1, BAD_MESSAGE, "no Hello within 10 s")
            assert await settled(lambda: open_files(pid), files) == files
            assert (host.pid, children(pid)) == (pid, simulator)
            assert most_memory(pid) - memory <= GROWTH
            assert max(await slots_of_a_new_client(address, 40)) < 2 + 4 * AT_A_TIME + 40
            assert await play(host) == undisturbed

    asyncio.run(run())
