"""The messages between a driver and a worker, and between a driver and an env server.

A worker sends :class:`Welcome` first, or :class:`Failure`. Then each :class:`Start` is answered by :class:`Started`, each
:class:`Step` by :class:`Stepped` and each :class:`Prepare` by :class:`Prepared`, or any by :class:`Failure`, in order. A message
travels as a frame, whose head has the request's number and env.

On another machine an env server sends :class:`Capacity`, the client sends :class:`StartWorker` for a worker of its own
and gets :class:`WorkerReady`, and then the worker's Welcome. A worker's death is :class:`Died`.
"""

from __future__ import annotations

from typing import Any, Optional, Union, get_args

import numpy as np

from .api import ChunkResult, Episode, Needs, Snapshot
from .embodiments import Embodiment
from .errors import BadMessageError
from .framing import Frame
from .wire import MessageStruct, pack, unpack

#: Raised with every change to a message; both ends must agree.
WIRE_VERSION = 10

#: Kinds of :class:`Failure`.
BAD_MESSAGE = "bad_message"  # what came was no message of ours, or came out of turn
REFUSED = "refused"  # the env gave the reason in one sentence
UNFIT = "unfit"  # the episode's own data cannot be played, with the reason in one sentence
ENV_ERROR = "env_error"  # the adapter or its simulator raised
CRASH = "crash"  # the simulator's process died while this request ran
HANG = "hang"  # the simulator gave no answer in time and was killed
MEMORY = "memory"  # the simulator took more than its share of the memory while this request ran, and was killed
LOST = "lost"  # the env's episode is lost through no fault of its own: its process died while another env's request ran

#: Failures of this very episode, or of the simulator while it ran it.
EPISODE_FAULTS = (UNFIT, ENV_ERROR, CRASH, HANG, MEMORY)


class Welcome(MessageStruct, frozen=True):
    """A simulator is loaded, and this is the embodiment that it moves."""

    version: int
    embodiment: Embodiment


class Capacity(MessageStruct, frozen=True):
    """An env server's first message.

    Attributes:
        version: Its :data:`WIRE_VERSION`.
        vlarig: Version of the package.
        host: The machine's name.
        cores: Cores that it may keep busy.
        memory: Bytes of memory that are free.
        workers: Workers that it still starts.
    """

    version: int
    vlarig: str
    host: str
    cores: int
    memory: int
    workers: int


class StartWorker(MessageStruct, frozen=True):
    """Start a worker for this connection, and end it with it.

    Attributes:
        suite: Name of the suite whose simulator it loads.
        memory: Most bytes that the worker may take; no bound when ``None``.
        lease: A text of the client's own; an earlier connection with the same one is ended first.
        renderer: What is to render the images, where the env server's machine has it; empty for its own choice.
    """

    suite: str
    memory: Optional[int]
    lease: str
    renderer: str = ""


class WorkerReady(MessageStruct, frozen=True):
    """The worker is there; this is what its results depend on.

    Attributes:
        runtime: SHA-256 of the runtime's lock.
        renderer: What renders the images; empty for a runtime whose needs are not known.
        assets: Bundle of data files to its identity.
        code: SHA-256 of the code that the worker takes from vlarig.
        pid: Process id of the worker, on its machine.
    """

    runtime: str
    renderer: str
    assets: dict[str, str]
    code: str
    pid: int


class Start(MessageStruct, frozen=True):
    """Begin an episode, whatever went on in the env before."""

    episode: Episode
    needs: Needs


class Started(MessageStruct, frozen=True):
    """The episode's first snapshot."""

    snapshot: Snapshot


class Step(MessageStruct, frozen=True):
    """Run a chunk, ``float32[H, A]``."""

    actions: np.ndarray


class Stepped(MessageStruct, frozen=True):
    """What the chunk did."""

    result: ChunkResult


class Prepare(MessageStruct, frozen=True):
    """Try a candidate for an initial state, see :meth:`~vlarig.envs.api.Env.prepare`."""

    episode: Episode


class Prepared(MessageStruct, frozen=True):
    """What the candidate's episodes carry; ``None`` where it will not do."""

    data: Optional[dict[str, Any]]


class Failure(MessageStruct, frozen=True):
    """A request that was not carried out.

    ``traceback`` is for a log: where the adapter's code raised, as text.
    """

    kind: str
    message: str
    traceback: str = ""


class Died(MessageStruct, frozen=True):
    """The worker is dead; ``running`` is the number of the request that was running, 0 for none, and ``kind`` its failure."""

    kind: str
    message: str
    running: int


Message = Union[Welcome, Capacity, StartWorker, WorkerReady, Start, Started, Step, Stepped, Failure, Died, Prepare, Prepared]

#: The messages; a message's place is its frame's kind.
KINDS: tuple[Any, ...] = get_args(Message)

#: The kinds of a worker's requests, and of its death.
START, STEP, DIED, PREPARE = map(KINDS.index, (Start, Step, Died, Prepare))


def encode(message: Message, number: int = 0, env: int = 0, steps: int = 0) -> Frame:
    """A message as a frame; ``number`` is its ``id``, see :class:`~vlarig.envs.framing.Frame`.

    Raises:
        BadMessageError: It holds what does not travel.
    """
    return Frame(number, KINDS.index(type(message)), env, steps, pack(message))


def decode(frame: Frame) -> Any:
    """The message in a frame.

    Raises:
        BadMessageError: There is none; the message says why.
    """
    if frame.kind >= len(KINDS):
        raise BadMessageError(f"a message of kind {frame.kind}; kinds are numbered from 0 to {len(KINDS) - 1}")
    return unpack(frame.body, KINDS[frame.kind])
