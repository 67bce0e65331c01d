"""A connection whose other end does not read is not read from."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fuzzing.hostile import OPEN, frame
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from vlarig.envs.backpressure import PatientConnection

PINGS = frame(0x9, b"x" * 125) * 1000


@pytest.mark.parametrize("most_sent", [100 * 2**20, 0])
def test_answers_to_pings_do_not_pile_up(most_sent: int) -> None:
    """A client sends pings for as long as the server takes them, and reads the answers only then."""
    received: list[str | bytes] = []

    async def listen(connection: ServerConnection) -> None:
        async for message in connection:
            received.append(message)
            await connection.send(message)

    async def run() -> None:
        async with serve(listen, "127.0.0.1", 0, compression=None, create_connection=PatientConnection) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(OPEN)
            await reader.readuntil(b"\r\n\r\n")
            (connection,) = server.connections
            with contextlib.suppress(asyncio.TimeoutError):
                for _ in range(most_sent // len(PINGS)):
                    writer.write(PINGS)
                    await asyncio.wait_for(writer.drain(), 1)
            assert connection.transport.get_write_buffer_size() < 2**20
            writer.write(frame(0x2, b"done"))
            last = b""
            while not last.endswith(frame(0x2, b"done", masked=False)):
                last = last[-10:] + await reader.read(2**16)
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert received == [b"done"]


def test_two_ends_that_send_much_at_once_do_not_wait_for_each_other() -> None:
    message = bytes(5 * 10**6)

    async def echo(connection: ServerConnection) -> None:
        async for each in connection:
            await connection.send(each)

    async def run() -> None:
        async with serve(echo, "127.0.0.1", 0, compression=None, max_size=None, create_connection=PatientConnection) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as client:
                sending = asyncio.gather(*(client.send(message) for _ in range(10)))
                assert [len(await client.recv()) for _ in range(10)] == [len(message)] * 10
                await sending

    asyncio.run(asyncio.wait_for(run(), 60))
