"""The messages between the engine and a sim server, and between a sim server and its simulator.

A conversation: the client sends :class:`Hello` and gets :class:`Welcome`; then each :class:`Start` is answered by :class:`Started` and
each :class:`Step` by :class:`Stepped`, or either by :class:`Failure`, with the request's ``id``. Slots share the connection.

On another machine an env server stands before the sim servers: it says by :class:`Offer` what there is, the client asks by
:class:`Hire` for a sim server of its own and gets :class:`Hired`, and then the sim server's :class:`Welcome` without a Hello.
"""

from __future__ import annotations

import contextlib
from typing import Optional, Union

import msgspec
import numpy as np

from .api import ChunkResult, Episode, Needs, Snapshot
from .embodiments import Embodiment
from .errors import BadMessageError
from .wire import MessageStruct, pack, unpack

#: Raised with every change to a message; both ends must agree.
WIRE_VERSION = 4

#: Kinds of :class:`Failure`.
BAD_MESSAGE = "bad_message"  # the request was no message of ours, or came out of turn
REFUSED = "refused"  # the env said in one sentence why it cannot
ENV_ERROR = "env_error"  # the adapter or its simulator raised
CRASH = "crash"  # the simulator's process died while this request ran
HANG = "hang"  # the simulator gave no answer in time and was killed
MEMORY = "memory"  # the simulator took more than its share of the memory while this request ran, and was killed
LOST = "lost"  # the slot's episode is gone through no fault of its own: its process died while another slot's request ran

#: Failures of the simulator while it ran this very episode.
EPISODE_FAULTS = (ENV_ERROR, CRASH, HANG, MEMORY)


class Hello(MessageStruct, frozen=True):
    """The client's first message."""

    version: int
    token: str


class Welcome(MessageStruct, frozen=True):
    """The answer: a simulator is loaded, and this is the embodiment that it moves."""

    version: int
    embodiment: Embodiment


class Offer(MessageStruct, frozen=True):
    """What an env server says first.

    Attributes:
        version: Its :data:`WIRE_VERSION`.
        vlarig: Version of the package.
        host: The machine's name.
        cores: Cores that it may keep busy.
        memory: Bytes of memory that are free.
        workers: Sim servers that it still starts.
    """

    version: int
    vlarig: str
    host: str
    cores: int
    memory: int
    workers: int


class Hire(MessageStruct, frozen=True):
    """Start a sim server for this connection, and end it with it.

    Attributes:
        suite: Name of the suite whose simulator it loads.
        memory: Most bytes that the simulator may take; no bound when ``None``.
        lease: A text of the client's own; an earlier connection with the same one is ended first.
        renderer: What is to draw the pictures, where the env server's machine has it; empty for its own choice.
    """

    suite: str
    memory: Optional[int]
    lease: str
    renderer: str = ""


class Hired(MessageStruct, frozen=True):
    """The sim server stands; this is what its results depend on.

    Attributes:
        runtime: SHA-256 of the runtime's lock.
        renderer: What draws the pictures; empty for a runtime whose needs are not known.
        assets: Bundle of data files to its identity.
        code: SHA-256 of the code that the sim server and its simulator take from vlarig.
        pid: Process id of the sim server, on its machine.
    """

    runtime: str
    renderer: str
    assets: dict[str, str]
    code: str
    pid: int


class Start(MessageStruct, frozen=True):
    """Begin an episode in a slot, whatever went on there before."""

    id: int
    slot: int
    episode: Episode
    needs: Needs


class Started(MessageStruct, frozen=True):
    """The slot's first moment."""

    id: int
    snapshot: Snapshot


class Step(MessageStruct, frozen=True):
    """Run a chunk, ``float32[H, A]``, in a slot."""

    id: int
    slot: int
    actions: np.ndarray


class Stepped(MessageStruct, frozen=True):
    """What the chunk did."""

    id: int
    result: ChunkResult


class Failure(MessageStruct, frozen=True):
    """A request that was not carried out; ``id`` is -1 where none could be read.

    ``traceback`` is for a log: where the adapter's code raised, as text.
    """

    id: int
    kind: str
    message: str
    traceback: str = ""


Message = Union[Hello, Welcome, Offer, Hire, Hired, Start, Started, Step, Stepped, Failure]

#: What an encoded answer begins with behind the 4 bytes of its head's length (see wire.py): up to its id, for each kind.
_ANSWERS = tuple(
    bytes([0x81 + len(kind.__struct_fields__)]) + b"".join(map(msgspec.msgpack.encode, ("type", kind.__name__, "id")))
    for kind in (Started, Stepped, Failure)
)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return pack(message)


def decode(data: bytes | str) -> Message:
    """The message in ``data``.

    Raises:
        BadMessageError: There is none; says what is wrong.
    """
    if isinstance(data, str):
        raise BadMessageError("a text frame; messages are binary msgpack")
    return unpack(data, Message)


def answered_id(data: bytes) -> Optional[int]:
    """The ``id`` of an encoded answer, told by its first bytes alone: the rest may be large, or broken.

    Returns:
        The id, or ``None`` where ``data`` does not begin as an answer does.
    """
    for opening in _ANSWERS:
        if data.startswith(opening, 4):
            begin = 4 + len(opening)
            for size in (1, 2, 3, 5, 9):  # of a whole number; exactly one of them is neither cut off nor too long
                with contextlib.suppress(ValueError):
                    return msgspec.msgpack.decode(data[begin : begin + size], type=int)
    return None
