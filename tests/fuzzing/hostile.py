"""Attacks of a hostile client on a websocket server before the first message that a decoder could refuse."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

Attack = Callable[[], Awaitable[None]]
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_HEADERS = b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

#: A request that opens a websocket.
OPEN = b"GET / HTTP/1.1\r\n" + _HEADERS + b"Sec-WebSocket-Version: 13\r\n\r\n"

#: Seconds that a server gets to turn a hostile client away.
PATIENCE = 30.0


def frame(
    opcode: int, payload: bytes, *, final: bool = True, reserved: int = 0, masked: bool = True, length: int = -1
) -> bytes:
    """A frame of a websocket client; the mask is all zeros.

    Args:
        opcode: What it is.
        payload: What it holds.
        final: Whether its message ends with it.
        reserved: The three reserved bits; 4 means a compressed one.
        masked: Whether it is masked, as a client's have to be.
        length: The length that it claims to have, if another than it has.
    """
    size = len(payload) if length < 0 else length
    mask = 0x80 if masked else 0
    if size < 126:
        claimed = bytes([mask | size])
    elif size < 2**16:
        claimed = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        claimed = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([final << 7 | reserved << 4 | opcode]) + claimed + b"\x00" * 4 * masked + payload


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: What opens no websocket.
HANDSHAKES = {
    "noise": b"\x00\xff\xfe\x80" * 100 + b"\r\n\r\n",
    "nothing but lines": b"\r\n" * 1000,
    "a browser": b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n",
    "a form": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "a TLS client": bytes.fromhex("16030100c8010000c40303") + bytes(200) + b"\r\n\r\n",
    "an endless line": b"GET /" + b"x" * 2**20,
    "endless headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    "another version": b"GET / HTTP/1.1\r\n" + _HEADERS + b"Sec-WebSocket-Version: 99\r\n\r\n",
    "a key that is none": OPEN.replace(b"AAAA", b"????"),
    "headers twice": OPEN.replace(b"Host: x", b"Host: x\r\n" + _HEADERS[9:-2]),
    "an old HTTP": OPEN.replace(b"HTTP/1.1", b"HTTP/1.0"),
}

#: Data that no client may send on an open websocket.
FRAMES = {
    "a compressed frame": frame(BINARY, b"\x00", reserved=4),
    "reserved bits": frame(BINARY, b"x", reserved=3),
    "a reserved opcode": frame(0x3, b"x"),
    "a reserved control opcode": frame(0xB, b"x"),
    "a frame without a mask": frame(BINARY, b"x", masked=False),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a message within a message": frame(BINARY, b"x", final=False) + frame(BINARY, b"y"),
    "a ping in parts": frame(PING, b"x", final=False),
    "a ping that is too long": frame(PING, b"x" * 126),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close with a forbidden code": frame(CLOSE, (1005).to_bytes(2, "big")),
    "a close with a broken reason": frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"),
    "text that is none": frame(TEXT, b"\xff\xfe"),
    "a frame of 64 GB": frame(BINARY, b"", length=2**36),
    "a frame of more than there can be": frame(BINARY, b"", length=2**64 - 1),
    "a thousand pings, then noise": frame(PING, b"x" * 125) * 1000 + b"\xff" * 10,
    "unsolicited pongs, then noise": frame(PONG, b"x" * 125) * 1000 + b"\xff" * 10,
    "parts without an end": frame(BINARY, b"x", final=False) + frame(CONTINUATION, b"", final=False) * 5000,
    "large parts without an end": frame(BINARY, b"", final=False) + frame(CONTINUATION, bytes(2**20), final=False) * 65,
}


async def hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send ``data`` to a server that will end the connection, and return all that it answered."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.transport.abort()
    return answer


async def messages_until_the_end(connection: ClientConnection) -> list[bytes | str]:
    """The server's remaining output before it ends the connection."""
    heard: list[bytes | str] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            heard.append(await asyncio.wait_for(connection.recv(), PATIENCE))
    return heard


@contextlib.asynccontextmanager
async def lingering(dial: Callable[[], Awaitable[Line]], beginnings: list[bytes]) -> AsyncIterator[None]:
    """While the context lasts, connections are open that have sent an incomplete request, do not continue, and read nothing."""
    lines = []
    try:
        for beginning in beginnings:
            lines.append(await dial())
            lines[-1][1].write(beginning)
        yield
    finally:
        for _, writer in lines:
            writer.transport.abort()


async def all_at_once(attacks: list[Attack], at_a_time: int) -> int:
    """Run all attacks in a random order, ``at_a_time`` in parallel; returns their number."""
    turn = asyncio.Semaphore(at_a_time)

    async def one(attack: Attack) -> None:
        async with turn:
            await asyncio.wait_for(attack(), 2 * PATIENCE)

    await asyncio.gather(*map(one, random.Random(0).sample(attacks, len(attacks))))
    return len(attacks)


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def settled(count: Callable[[], int], wanted: int) -> int:
    """What ``count()`` is once it is no more than ``wanted``, or after all patience."""
    for _ in range(int(PATIENCE / 0.05)):
        if count() <= wanted:
            break
        await asyncio.sleep(0.05)
    return count()
