"""Hundreds of hostile clients at the policy server beside a good one: each costs at most its own connection."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TESTS
from fuzzing.campaign import broken_messages, most_memory
from fuzzing.decoders import all_decoders
from fuzzing.hostile import (
    BINARY,
    FRAMES,
    HANDSHAKES,
    OPEN,
    Attack,
    all_at_once,
    frame,
    hear_out,
    lingering,
    messages_until_the_end,
    open_files,
    settled,
)
from toy.env import TOY_POINT
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from vlarig.policies.conventions import embodiment_to_data
from vlarig.policies.remote.wire import MAX_MESSAGE_BYTES, pack, unpack

TOKEN = "the token"
SHOWN = {"Authorization": f"Api-Key {TOKEN}"}

#: Hostile connections at a time.
AT_A_TIME = 16

#: MB that the server may grow by: the largest message as it arrives, put together and taken apart, for a few senders of one at a time.
GROWTH = 150


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, int]]:
    """The command that serves the toy's policy: its process and its port. It must have logged no error in the end."""
    file = folder / "point.json"
    file.write_text(json.dumps(embodiment_to_data(TOY_POINT)))
    words = ["--policy", "toy.policies:ImageReader", "--embodiment", str(file), "--port", "0", "--token-env", "SERVED"]
    with subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", "serve", "policy", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS), "SERVED": TOKEN},
    ) as process:
        assert process.stdout is not None
        found = re.search(r" at ws://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found
        try:
            yield process.pid, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                _, complaints = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0
        assert complaints == ""


def request(chunk: int, **more: Any) -> bytes:
    image = np.full((8, 8, 3), chunk, np.uint8)
    shown = {"observation/images/ego": image, "observation/state": np.zeros(3, np.float32), "prompt": "go"}
    keys = {"client": "good", "env": 0, "key": "an episode", "chunk": chunk, "seed": 7 * chunk, "n_action_steps": 10} | more
    return pack({**shown, **{f"vlarig/{key}": value for key, value in keys.items()}})


async def connected(port: int) -> ClientConnection:
    url = f"ws://127.0.0.1:{port}"
    connection = await connect(url, additional_headers=SHOWN, compression=None, max_size=None, close_timeout=1)
    assert "vlarig" in unpack(await connection.recv())
    return connection


async def play(connection: ClientConnection) -> list[bytes]:
    """The answers to some requests, but for the times that they took."""
    answers = []
    for chunk in range(20):
        await connection.send(request(chunk))
        answers.append(unpack(await connection.recv())["actions"].tobytes())
    return answers


def attacks(port: int) -> list[Attack]:
    """Hostile clients; each checks that it was refused as it should be."""
    (decoder,) = (each for each in all_decoders() if each.name == "serving")
    messages = [
        *broken_messages(decoder, 120),
        *(b"", bytes(MAX_MESSAGE_BYTES), bytes(MAX_MESSAGE_BYTES + 1), b"\x91" * MAX_MESSAGE_BYTES, "hello", "", "{}"),
        *(request(5, client="stranger"), request(0, env=-1), request(0, client=""), request(0, n_action_steps=10**6)),
    ]

    async def shake_no_hands(data: bytes) -> None:
        answer = await hear_out(*await asyncio.open_connection("127.0.0.1", port), data)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer

    async def show(token: str) -> None:
        headers = {"Authorization": token}
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}", additional_headers=headers, compression=None)
        assert refused.value.response.status_code in (400, 401)

    async def break_a_frame(data: bytes) -> None:
        connection = await connected(port)
        connection.transport.write(data)
        for text in await messages_until_the_end(connection):
            check_refusal(text)

    async def send(data: bytes | str) -> None:
        connection = await connected(port)
        sending = asyncio.create_task(connection.send(data))
        received = await messages_until_the_end(connection)
        await asyncio.wait([sending])
        sending.exception()
        if len(data) <= MAX_MESSAGE_BYTES:
            (text,) = received
            check_refusal(text)
        else:
            assert received == []

    async def leave(chunk: int) -> None:
        """Disconnect with a request under way."""
        connection = await connected(port)
        await connection.send(request(0, client=f"closed {chunk}"))
        connection.transport.write(frame(BINARY, b"", length=1000))
        connection.transport.abort()

    tokens = (
        "",
        "Api-Key",
        "Api-Key ",
        "Api-Key x",
        f"Bearer {TOKEN}",
        f"Api-Key {TOKEN}x",
        f"Api-Key {TOKEN[:-1]}",
        "x" * 8000,
    )
    return [
        *(lambda data=data: shake_no_hands(data) for data in [*HANDSHAKES.values(), OPEN]),
        *(lambda token=token: show(token) for token in tokens),
        *(lambda data=data: break_a_frame(data) for data in list(FRAMES.values()) * 2),
        *(lambda data=data: send(data) for data in messages),
        *(lambda chunk=chunk: leave(chunk) for chunk in range(30)),
    ]


def check_refusal(text: bytes | str) -> None:
    """Make sure that a client got the error in one line."""
    assert isinstance(text, str), text
    assert 0 < len(text) <= 500
    assert len(text.splitlines()) == 1
    assert "Traceback" not in text
    assert TESTS.name not in text.split("/")


@pytest.mark.slow
def test_hostile_clients_cost_at_most_their_own_connections(toy_home: Path, tmp_path: Path) -> None:
    async def run(pid: int, port: int) -> None:
        good = await connected(port)
        undisturbed = await play(good)
        files, memory = open_files(pid), most_memory(pid)

        def line() -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
            return asyncio.open_connection("127.0.0.1", port, limit=1024)

        shown = OPEN.replace(b"Host: x", b"Host: x\r\nAuthorization: " + SHOWN["Authorization"].encode())
        unfinished = [b"", OPEN[:50], shown, shown + frame(BINARY, request(0))[:100], shown + frame(BINARY, b"x", final=False)]
        async with lingering(line, unfinished):
            attacked = asyncio.create_task(all_at_once(attacks(port), AT_A_TIME))
            rounds = 0
            while not attacked.done() or not rounds:
                assert await play(good) == undisturbed
                rounds += 1
            assert await attacked >= 200
        assert await settled(lambda: open_files(pid), files) == files
        assert most_memory(pid) - memory <= GROWTH
        assert await play(good) == undisturbed
        await good.close()

    with serving(tmp_path) as (pid, port):
        asyncio.run(run(pid, port))
