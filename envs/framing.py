"""Frames: the messages between a supervisor and its child, on a socket pair, and between machines, by a websocket or Ray.

A frame is a head of fixed size and a body. A relay reads and bounds the head; the body is for its receiver.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Union

from .errors import BadMessageError
from .wire import MAX_MESSAGE_BYTES

#: Most envs of one worker.
MOST_ENVS = 1024

#: id, kind, env, steps, size of the body.
_HEAD = struct.Struct(">IBHIQ")

#: Bytes of an encoded head.
HEAD_BYTES = _HEAD.size


class Frame(NamedTuple):
    """One message.

    Attributes:
        id: Number of the request, which its reply repeats; 0 is a child's first message.
        kind: Which message the body is, by its conversation's numbers.
        env: Number of the env that a request is for.
        steps: Steps of a request's chunk, or those that an episode's chunks execute; 0 for everything else.
        body: The encoded message.
    """

    id: int
    kind: int
    env: int
    steps: int
    body: Union[bytes, bytearray]

    def head(self) -> bytes:
        return _HEAD.pack(self.id, self.kind, self.env, self.steps, len(self.body))

    def encoded(self) -> bytes:
        """Head and body, as one message."""
        return self.head() + self.body


class Head(NamedTuple):
    """A frame's head: the fields of :class:`Frame`, and the size of its body in bytes."""

    id: int
    kind: int
    env: int
    steps: int
    size: int

    def frame(self, body: Union[bytes, bytearray]) -> Frame:
        return Frame(self.id, self.kind, self.env, self.steps, body)


def read_head(data: Union[bytes, bytearray], most_bytes: int = MAX_MESSAGE_BYTES) -> Head:
    """The head in :data:`HEAD_BYTES` bytes; its body may have ``most_bytes``.

    Raises:
        BadMessageError: A field is out of its bounds.
    """
    head = Head(*_HEAD.unpack(data))
    if head.size > most_bytes:
        raise BadMessageError(f"a message of {head.size} bytes; at most {most_bytes} are allowed")
    if head.env >= MOST_ENVS:
        raise BadMessageError(f"env {head.env}; a worker's envs are numbered from 0 to {MOST_ENVS - 1}")
    return head


def frame_of(message: Union[bytes, str]) -> Frame:
    """The frame in one message, :meth:`Frame.encoded`.

    Raises:
        BadMessageError: It is none.
    """
    if isinstance(message, str):
        raise BadMessageError("a text message; frames are binary")
    if len(message) < HEAD_BYTES:
        raise BadMessageError(f"a message of {len(message)} bytes; a frame has {HEAD_BYTES} or more")
    head = read_head(message[:HEAD_BYTES])
    if head.size != len(message) - HEAD_BYTES:
        raise BadMessageError(f"a frame of {len(message)} bytes whose body should have {head.size}")
    return head.frame(message[HEAD_BYTES:])


def send_frame(channel: socket.socket, frame: Frame) -> None:
    """Send one frame, blocking; its body is not copied."""
    head = frame.head()
    sent = channel.sendmsg([head, frame.body])
    if sent < len(head) + len(frame.body):  # a signal came
        channel.sendall((head + frame.body)[sent:])


def receive_frame(channel: socket.socket, most_bytes: int = MAX_MESSAGE_BYTES) -> Frame:
    """Receive one frame, blocking.

    Raises:
        EOFError: The other end is closed.
        BadMessageError: A field of the head is out of its bounds.
    """
    head = read_head(_receive_exactly(channel, HEAD_BYTES), most_bytes)
    return head.frame(_receive_exactly(channel, head.size))


def _receive_exactly(channel: socket.socket, count: int) -> bytearray:
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
    return buffer
