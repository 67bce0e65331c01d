"""Length-prefixed messages on the socket pair between a process and one that it started: a simulator's, a policy's."""

from __future__ import annotations

import asyncio
import socket
import struct

from .errors import BadMessageError
from .wire import MAX_MESSAGE_BYTES

_PREFIX = struct.Struct(">I")


def send_frame(channel: socket.socket, data: bytes) -> None:
    """Send one message, blocking."""
    channel.sendall(_PREFIX.pack(len(data)) + data)


def receive_frame(channel: socket.socket) -> bytes:
    """Receive one message, blocking; ``EOFError`` when the other end is gone."""
    return _receive_exactly(channel, _length(_receive_exactly(channel, _PREFIX.size)))


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Receive one message; ``asyncio.IncompleteReadError`` when the other end is gone."""
    return await reader.readexactly(_length(await reader.readexactly(_PREFIX.size)))


def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Queue one message for sending."""
    writer.write(_PREFIX.pack(len(data)) + data)


def _length(prefix: bytes) -> int:
    (length,) = _PREFIX.unpack(prefix)
    if length > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {length} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return length


def _receive_exactly(channel: socket.socket, count: int) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        try:
            received = channel.recv_into(view)
        except ConnectionError:
            received = 0
        if received == 0:
            raise EOFError("the other end of the channel is closed")
        view = view[received:]
    return bytes(buffer)
