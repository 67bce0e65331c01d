"""The messages between the driver and a replica of its policy, in the wire's own form. Each travels with the number of its request.

A conversation: the replica sends a :class:`Description`, or :class:`Failed` where its policy cannot be made, numbered :data:`LOADED`.
Then each :data:`Order` is answered by :class:`Done`, and an :class:`ActRequest`, after which its :class:`PackedRequest` messages come,
by :class:`ActReply`, after which its :class:`PackedReply` messages come; each by :class:`Failed` where the policy raised. A request and
its reply are a message each, so that no batch is too large for one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..envs.api import Needs
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..envs.wire import MessageStruct, pack, unpack
from .api import Policy, PolicyError, PolicyLost, Reply, Request

#: Number of what a replica sends first.
LOADED = -1

#: Kinds of :class:`Failed`: which exception of ours it was.
POLICY, LOST, OTHER = "policy", "lost", "other"

#: Most characters of what is said of a failure.
_LONGEST_SENTENCE = 10_000


class Description(MessageStruct, frozen=True):
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

    @classmethod
    def of(cls, policy: Policy, sources: Mapping[str, str]) -> Description:
        """The description of a policy of this process; its members are read, which may raise anything."""
        return cls(
            name=policy.name,
            revision=policy.revision,
            needs=policy.needs,
            horizon=policy.horizon,
            rounds_by_batch=bool(getattr(policy, "rounds_by_batch", False)),
            keeps_notes=bool(getattr(policy, "keeps_notes", True)),
            reads_state=bool(getattr(policy, "reads_state", True)),
            embodiments=tuple(getattr(policy, "embodiments", ())),
            transport_options=tuple(sorted(getattr(policy, "transport_options", ()))),
            sources=dict(sources),
        )


class Check(MessageStruct, frozen=True):
    """Does the policy fit the suite?"""

    suite: str
    embodiment: Embodiment


class MakeStrict(MessageStruct, frozen=True):
    """Compute in one thread in float32."""


class Rows(MessageStruct, frozen=True):
    """How many rows are answered to this embodiment?"""

    embodiment: Embodiment


class Done(MessageStruct, frozen=True):
    """It is done; ``rows`` answers :class:`Rows`."""

    rows: int | None = None


class ActRequest(MessageStruct, frozen=True):
    """Answer the ``count`` requests that come next, as one batch."""

    count: int


class PackedRequest(MessageStruct, frozen=True):
    """One request of a batch."""

    request: Request


class ActReply(MessageStruct, frozen=True):
    """The batch is answered by the ``count`` replies that come next; ``version`` is the policy's."""

    count: int
    version: int


class PackedReply(MessageStruct, frozen=True):
    """One reply, its actions ``float32[H, A]``, and what travels of its extras."""

    reply: Reply


class Failed(MessageStruct, frozen=True):
    """The policy raised; ``message`` is the whole sentence, ``traceback`` is for a log."""

    kind: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: VlarigError | PolicyLost) -> Failed:
        """The exception as an answer."""
        sentence = str(error)[:_LONGEST_SENTENCE].encode(errors="replace").decode()
        if isinstance(error, PolicyLost):
            return cls(LOST, sentence)
        story = error.traceback.encode(errors="replace").decode()
        return cls(POLICY if isinstance(error, PolicyError) else OTHER, sentence, story)

    def error(self) -> VlarigError | PolicyLost:
        """The same as the exception to raise."""
        if self.kind == LOST:
            return PolicyLost(self.message)
        return (PolicyError if self.kind == POLICY else VlarigError)(self.message, traceback=self.traceback)


#: What a policy is to do besides acting; it is answered by :class:`Done`.
Order = Check | MakeStrict | Rows

Message = Description | Order | Done | ActRequest | PackedRequest | ActReply | PackedReply | Failed


def encode(message: Message, number: int = 0) -> bytes:
    """A message and its number as bytes.

    Raises:
        BadMessageError: It holds what does not travel.
    """
    return pack((number, message))


def decode(data: bytes) -> tuple[int, Message]:
    """The number and the message in ``data``.

    Raises:
        BadMessageError: There is none; says what is wrong.
    """
    return unpack(data, tuple[int, Message])
