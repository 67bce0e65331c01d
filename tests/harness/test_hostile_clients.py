"""Hundreds of hostile clients of an env server beside a good one: each costs at most its own connection, and none leaves anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from chaos.processes import children, is_launcher
from fuzzing.campaign import broken_messages, most_memory
from fuzzing.decoders import all_decoders
from fuzzing.hostile import (
    FRAMES,
    HANDSHAKES,
    OPEN,
    Attack,
    all_at_once,
    hear_out,
    lingering,
    messages_until_the_end,
    open_files,
    settled,
)
from toy.suite import TOY_SUITE
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from vlarig.envs.access import authorization
from vlarig.envs.api import Camera, ChunkResult, Needs
from vlarig.envs.framing import MOST_ENVS, Frame, frame_of
from vlarig.envs.messages import (
    BAD_MESSAGE,
    Capacity,
    Died,
    Failure,
    Message,
    Start,
    StartWorker,
    Step,
    Stepped,
    Welcome,
    WorkerReady,
    decode,
    encode,
)
from vlarig.envs.wire import MAX_MESSAGE_BYTES, pack
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.machines.env_server import EnvServer, EnvServerConfig
from vlarig.harness.machines.remote_machines import RemoteMachine, RemoteWorker
from vlarig.harness.workers import Worker, started

EPISODES = TOY_SUITE.episodes(per_task=4)
STEP = np.zeros((1, 3), np.float32)
TOKEN = "the token of these tests"

#: Hostile connections at a time; each may hold a worker.
AT_A_TIME = 4

#: MB that a server may grow by: the largest message as it arrives, put together and taken apart, for those that send one at a time.
GROWTH = 450


def message(content: Message, number: int = 0, env: int = 0, steps: int = 0) -> bytes:
    frame = encode(content, number, env, steps)
    return frame.head() + frame.body


async def play(worker: Worker) -> list[bytes]:
    """All that is shown of some episodes in two envs, but for the times that it took."""

    async def in_env(env: int) -> list[bytes]:
        shown = []
        for number, episode in enumerate(EPISODES[env::2]):
            rng = np.random.default_rng(number)
            result = ChunkResult((), await (await worker.running()).start(env, episode, Needs(final_frame=True)))
            while True:
                shown.append(pack(Stepped(replace(result, snapshot=replace(result.snapshot, seconds={})))))
                if result.steps and result.over:
                    break
                result = await (await worker.running()).step(env, rng.uniform(-1, 1, (8, 3)).astype(np.float32))
        return shown

    first, second = await asyncio.gather(in_env(0), in_env(1))
    return first + second


@asynccontextmanager
async def server() -> AsyncIterator[tuple[int, Worker]]:
    """An env server of this process, by its port, and a good client of it."""
    with TemporaryDirectory() as logs:
        config = EnvServerConfig(port=0, token=TOKEN, suites=("toy",), workers=1 + 2 * AT_A_TIME, logs=Path(logs))
        async with EnvServer(config) as env_server:
            machine = RemoteMachine(f"ws://127.0.0.1:{env_server.port}", TOKEN)
            worker = RemoteWorker(0, machine, WorkerSpec.of(TOY_SUITE))
            async with started([worker]):
                yield env_server.port, worker


async def connected(port: int, token: str = TOKEN) -> ClientConnection:
    return await connect(
        f"ws://127.0.0.1:{port}", additional_headers=authorization(token), compression=None, max_size=None, close_timeout=1
    )


async def offered(port: int) -> ClientConnection:
    """A connection that has received the capacity."""
    connection = await connected(port)
    assert isinstance(decode(frame_of(await connection.recv())), Capacity)
    return connection


async def hired(port: int) -> ClientConnection:
    """A connection that has a worker."""
    connection = await offered(port)
    await connection.send(message(StartWorker("toy", None, os.urandom(8).hex())))
    assert isinstance(decode(frame_of(await connection.recv())), WorkerReady)
    assert isinstance(decode(frame_of(await connection.recv())), Welcome)
    return connection


def check_failure(answer: bytes | str) -> None:
    """Make sure that a client received its error in one line."""
    failure = decode(frame_of(answer))
    assert isinstance(failure, (Failure, Died)), failure
    assert 0 < len(failure.message) <= 600
    assert failure.message.isprintable()


def attacks(port: int) -> list[Attack]:
    """Hostile clients; each checks that it was refused as expected."""
    garbage = [
        *(b"", b"\x00" * 4, b"\xff" * 100, b"\xff" * 19, MAX_MESSAGE_BYTES * b"\x00"),
        *(Frame(1, kind, 0, 0, b"\xc0").head() + b"\xc0" for kind in (0, 9, 10, 255)),
        message(Failure("crash", "x")),
        message(Welcome(5, TOY_SUITE.embodiment)),
        Frame(1, 6, MOST_ENVS, 1, b"").head(),
        Frame(1, 6, 0, 1, b"abc").head() + b"ab",
    ]
    for_a_worker = [
        *(Frame(number, 6, 0, 1, data).head() + data for number, data in enumerate(broken_messages(all_decoders()[0], 30), 1)),
        *(Frame(1, kind, 0, 1, b"\x00\x00\x00\x01\xc0").head() + b"\x00\x00\x00\x01\xc0" for kind in (4, 6)),
    ]
    known = [message(Step(STEP), 1, 0, 1), message(Start(EPISODES[0], Needs()), 1, 0, 8)]

    async def shake_no_hands(data: bytes) -> None:
        answer = await hear_out(*await asyncio.open_connection("127.0.0.1", port), data)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer

    async def show(token: str) -> None:
        with pytest.raises(InvalidStatus):
            await connected(port, token)

    async def break_a_frame(data: bytes, connect_to: Callable[[int], Awaitable[ClientConnection]]) -> None:
        connection = await connect_to(port)
        connection.transport.write(data)
        for answer in await messages_until_the_end(connection):
            check_failure(answer)

    async def send(data: bytes | str, connect_to: Callable[[int], Awaitable[ClientConnection]]) -> None:
        connection = await connect_to(port)
        with contextlib.suppress(ConnectionClosed):  # before it had read all
            await connection.send(data)
        for answer in await messages_until_the_end(connection):
            check_failure(answer)

    async def leave(data: bytes) -> None:
        """Disconnect in the middle of every step."""
        connection = await hired(port)
        for env in range(4):
            await connection.send(message(Start(EPISODES[0], Needs()), env + 1, env, 8))
        connection.transport.write(data)
        connection.transport.abort()

    return [
        *(lambda data=data: shake_no_hands(data) for data in HANDSHAKES.values()),
        *(lambda token=token: show(token) for token in ("", "x", TOKEN[:-1], TOKEN + "0", "guess" * 1000)),
        *(lambda data=data: break_a_frame(data, offered) for data in FRAMES.values()),
        *(
            lambda data=data, connect_to=connect_to: send(data, connect_to)
            for data in garbage
            for connect_to in (offered, hired)
        ),
        *(lambda data=data: send(data, offered) for data in known),
        *(lambda data=data: send(data, hired) for data in for_a_worker),
        *(lambda text=text: send(text, offered) for text in ("hello", "", "{}")),
        *(lambda data=data: leave(data) for data in (b"", b"\x82\xfe", b"\xff")),
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_clients_cost_at_most_their_own_connections(toy_home: Path) -> None:
    async def run() -> None:
        async with server() as (port, worker):
            undisturbed = await play(worker)
            (launcher,) = filter(is_launcher, children(os.getpid()))
            gc.collect()  # what earlier tests have left open is closed now, and not meanwhile
            pid, files, memory = worker.pid, open_files(os.getpid()), most_memory(os.getpid())
            unfinished = [b"", OPEN[:50], OPEN]
            async with lingering(lambda: asyncio.open_connection("127.0.0.1", port, limit=1024), unfinished):
                attacked = asyncio.create_task(all_at_once(attacks(port), AT_A_TIME))
                rounds = 0
                while not attacked.done() or not rounds:
                    assert await play(worker) == undisturbed
                    rounds += 1
                assert await attacked >= 90
            assert await settled(lambda: open_files(os.getpid()), files) == files
            assert await settled(lambda: len(children(launcher)), 1) == 1
            assert worker.pid == pid
            assert most_memory(os.getpid()) - memory <= GROWTH
            assert await play(worker) == undisturbed

    asyncio.run(run())


def test_a_client_that_reads_nothing_costs_others_nothing(toy_home: Path) -> None:
    large = replace(EPISODES[0], protocol=replace(EPISODES[0].protocol, cameras=(Camera("ego", 1000, 1000),)))

    async def run() -> None:
        async with server() as (port, worker):
            before = most_memory(os.getpid())
            deaf = await hired(port)
            deaf.transport.pause_reading()
            for env in range(48):
                await deaf.send(message(Start(large, Needs()), env + 1, env, 8))
            assert (await (await worker.running()).start(0, EPISODES[0], Needs())).step == 0
            assert most_memory(os.getpid()) - before < 100
            deaf.transport.abort()

    asyncio.run(run())


def test_an_invalid_request_is_refused_with_the_reason(toy_home: Path) -> None:
    async def run() -> Failure:
        async with server() as (port, _):
            connection = await hired(port)
            await connection.send(message(Failure("crash", "x")))
            (answer,) = await messages_until_the_end(connection)
            return decode(frame_of(answer))

    failure = asyncio.run(run())
    assert failure.kind == BAD_MESSAGE
    assert "out of turn; expected Start, Step or Prepare" in failure.message
