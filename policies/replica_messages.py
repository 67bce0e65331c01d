"""The messages between the driver and a replica of its policy, in the wire's own form.

A conversation: the replica sends a :class:`Greeting`, or :class:`Failed` where its policy cannot be made. Then each :class:`Check`,
:class:`MakeStrict` and :class:`Rows` is answered by :class:`Done`, and an :class:`Act`, after which its :class:`Question` come, by
:class:`Acted`, after which its :class:`Given` come; each of them by :class:`Failed` where the policy raised. A request and its reply
are a message each, so that no batch is too large for one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..envs.api import Needs, Observation
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.wire import MessageStruct, pack, unpack
from .api import PolicyError, Reply, Request

#: Kinds of :class:`Failed`: which exception of ours it was.
POLICY, OTHER = "policy", "other"


class Greeting(MessageStruct, frozen=True):
    """What a policy says of itself; the members of :class:`~vlarig.policies.api.Policy`, optional ones with their defaults.

    ``sources`` has the name and hash of each of its source files, as :mod:`vlarig.envs.sources` finds them.
    """

    name: str
    revision: str
    needs: Needs
    horizon: int | None
    rounds_by_batch: bool
    keeps_notes: bool
    reads_state: bool
    embodiments: tuple[Embodiment, ...]
    transport_options: tuple[str, ...]
    sources: dict[str, str]


class Check(MessageStruct, frozen=True):
    """Does the policy fit the suite?"""

    id: int
    suite: str
    embodiment: Embodiment


class MakeStrict(MessageStruct, frozen=True):
    """Compute in one thread in float32."""

    id: int


class Rows(MessageStruct, frozen=True):
    """How many rows are answered to this embodiment?"""

    id: int
    embodiment: Embodiment


class Done(MessageStruct, frozen=True):
    """It is done; ``rows`` answers :class:`Rows`."""

    id: int
    rows: int | None = None


class Act(MessageStruct, frozen=True):
    """Answer the ``count`` questions that come next, as one batch."""

    id: int
    count: int


class Question(MessageStruct, frozen=True):
    """A :class:`~vlarig.policies.api.Request`, its observation's parts side by side."""

    id: int
    slot: int
    key: str
    chunk: int
    seed: int
    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    embodiment: Embodiment
    execute: int
    privileged: dict[str, np.ndarray]

    @classmethod
    def of(cls, number: int, request: Request) -> Question:
        """The request as part of the batch of that number."""
        return cls(
            id=number,
            slot=request.slot,
            key=request.key,
            chunk=request.chunk,
            seed=request.seed,
            images=request.observation["images"],
            state=request.observation["state"],
            instruction=request.observation["instruction"],
            embodiment=request.embodiment,
            execute=request.execute,
            privileged=request.privileged,
        )

    def request(self) -> Request:
        """The request."""
        return Request(
            slot=self.slot,
            key=self.key,
            chunk=self.chunk,
            seed=self.seed,
            observation=Observation(images=self.images, state=self.state, instruction=self.instruction),
            embodiment=self.embodiment,
            execute=self.execute,
            privileged=self.privileged,
        )


class Acted(MessageStruct, frozen=True):
    """The batch is answered by the ``count`` replies that come next; ``version`` is the policy's."""

    id: int
    count: int
    version: int


class Given(MessageStruct, frozen=True):
    """A :class:`~vlarig.policies.api.Reply`, ``float32[H, A]`` and what travels of its extras."""

    id: int
    actions: np.ndarray
    extras: dict[str, Any]

    def reply(self) -> Reply:
        """The reply."""
        return Reply(self.actions, self.extras)


class Failed(MessageStruct, frozen=True):
    """The policy raised; ``message`` is the whole sentence, ``traceback`` is for a log. ``id`` is -1 where it could not be made."""

    id: int
    kind: str
    message: str
    traceback: str = ""

    def error(self) -> VlarigError:
        """The same as the exception to raise."""
        return (PolicyError if self.kind == POLICY else VlarigError)(self.message, traceback=self.traceback)


Message = Greeting | Check | MakeStrict | Rows | Done | Act | Question | Acted | Given | Failed


def encode(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        BadMessageError: It holds what does not travel.
    """
    return pack(message)


def decode(data: bytes) -> Message:
    """The message in ``data``.

    Raises:
        BadMessageError: There is none; says what is wrong.
    """
    return unpack(data, Message)
