"""The messages between the engine and a sim server, and between a sim server and its simulator.

A conversation: the client sends :class:`Hello` and gets :class:`Welcome`; then each :class:`Start` is answered by :class:`Started` and
each :class:`Step` by :class:`Stepped`, or either by :class:`Failure`, with the request's ``id``. Slots share the connection.

On another machine an env server stands before the sim servers: it says by :class:`Offer` what there is, the client asks by
:class:`Hire` for a sim server of its own and gets :class:`Hired`, and then the sim server's :class:`Welcome` without a Hello.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Union

import msgpack
import numpy as np

from .api import ChunkResult, Episode, Needs, Snapshot
from .embodiments import Embodiment
from .errors import BadMessageError
from .structure import structure_named
from .wire import pack, unpack

#: Raised with every change to a message; both ends must agree.
WIRE_VERSION = 3

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


@dataclass(frozen=True)
class Hello:
    """The client's first message."""

    version: int
    token: str


@dataclass(frozen=True)
class Welcome:
    """The answer: a simulator is loaded, and this is the embodiment that it moves."""

    version: int
    embodiment: Embodiment


@dataclass(frozen=True)
class Offer:
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


@dataclass(frozen=True)
class Hire:
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


@dataclass(frozen=True)
class Hired:
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


@dataclass(frozen=True)
class Start:
    """Begin an episode in a slot, whatever went on there before."""

    id: int
    slot: int
    episode: Episode
    needs: Needs


@dataclass(frozen=True)
class Started:
    """The slot's first moment."""

    id: int
    snapshot: Snapshot


@dataclass(frozen=True)
class Step:
    """Run a chunk, ``float32[H, A]``, in a slot."""

    id: int
    slot: int
    actions: np.ndarray


@dataclass(frozen=True)
class Stepped:
    """What the chunk did."""

    id: int
    result: ChunkResult


@dataclass(frozen=True)
class Failure:
    """A request that was not carried out; ``id`` is -1 where none could be read.

    ``traceback`` is for a log: where the adapter's code raised, as text.
    """

    id: int
    kind: str
    message: str
    traceback: str = ""


Message = Union[Hello, Welcome, Offer, Hire, Hired, Start, Started, Step, Stepped, Failure]

_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Hello, Welcome, Offer, Hire, Hired, Start, Started, Step, Stepped, Failure)
}
_ANSWERS = (Started.__name__, Stepped.__name__, Failure.__name__)

#: Where an encoded answer has its name and its id: behind the 4 bytes of its head's length, see wire.py.
_BEGINNING = slice(4, 64)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return pack([type(message).__name__, message])


def decode(data: bytes | str) -> Message:
    """The message in ``data``.

    Raises:
        BadMessageError: There is none; says what is wrong.
    """
    if isinstance(data, str):
        raise BadMessageError("a text frame; messages are binary msgpack")
    return structure_named(_KINDS, unpack(data))


def answered_id(data: bytes) -> Optional[int]:
    """The ``id`` of an encoded answer, told by its first bytes alone: the rest may be large, or broken.

    Returns:
        The id, or ``None`` where ``data`` does not begin as an answer does.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=64)  # so that a few bytes cannot ask for a long list
    unpacker.feed(data[_BEGINNING])
    try:
        if unpacker.read_array_header() != 2 or unpacker.unpack() not in _ANSWERS:
            return None
        unpacker.read_map_header()
        field, value = unpacker.unpack(), unpacker.unpack()
    except Exception:  # msgpack raises ValueErrors of many kinds, StackError and OutOfData
        return None
    return value if field == "id" and type(value) is int else None
