"""A server accepts a client that sends, however many connect and send nothing."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from vlarig.envs.handshakes import Handshakes


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def test_one_more_silent_connection_ends_the_oldest_and_a_sender_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handshakes = Handshakes(4)
        async with serve(echo, "127.0.0.1", 0, **handshakes.options()) as server:
            port = server.sockets[0].getsockname()[1]
            other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            async with connect(f"ws://127.0.0.1:{port}") as client:
                await client.send("hello")
                assert await client.recv() == "hello"
                closed = [reader.at_eof() or reader.exception() is not None for reader, _ in (other, *silent)]
                assert closed == [False, *[True] * 18, False, False]
            handshakes.close()  # or the server would wait for them when it ends

    asyncio.run(asyncio.wait_for(run(), 60))
    (record,) = caplog.records
    assert record.getMessage() == "more than 4 connections that send nothing, most of them from 127.0.0.1: the oldest is ended"


def test_a_lack_of_file_descriptors_is_a_line_and_not_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        Handshakes().watch_loop()
        for _ in range(100):
            trouble = OSError(errno.EMFILE, "Too many open files")
            asyncio.get_running_loop().call_exception_handler({"message": "no accept", "exception": trouble})
        asyncio.get_running_loop().call_exception_handler({"message": "something else"})

    asyncio.run(run())
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "no connection can be accepted (Too many open files); raise the limit, as 'ulimit -n 4096' does"),
        (logging.ERROR, "something else"),
    ]
