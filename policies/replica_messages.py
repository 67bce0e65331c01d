"""The messages between the driver and a replica of its policy, in the wire's own form.

A conversation: the replica sends a :class:`Description`, or :class:`Failed` where its policy cannot be made. Then each :data:`Order` is
answered by :class:`Done`, and an :class:`ActRequest` with its :class:`PackedRequest` messages by :class:`ActReply` with its
:class:`PackedReply` messages, a :class:`ValueRequest` with its requests by :class:`ValueReply`; each by :class:`Failed` where the
policy raised. A frame holds what belongs together, message by message, so that no batch is too large for one.

New weights do not travel in a frame: a :class:`LoadWeights` names a file in the format safetensors, :func:`save_weights`'s.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.api import Needs
from ..envs.embodiments import Embodiment
from ..envs.errors import BadMessageError, VlarigError, not_importable
from ..envs.wire import MAX_MESSAGE_BYTES, MessageStruct, pack, unpack
from .api import Policy, PolicyError, PolicyLost, Reply, Request

#: Kinds of :class:`Failed`: which exception of ours it was.
POLICY, LOST, OTHER = "policy", "lost", "other"

#: Largest body of a frame: a batch of many requests.
MAX_BATCH_BYTES = 2**32

_SIZE = struct.Struct(">I")

#: Most characters of a failure's message.
_LONGEST_SENTENCE = 10_000


class Description(MessageStruct, frozen=True):
    """A policy's description of itself; the members of :class:`~vlarig.policies.api.Policy`.

    ``sources`` has the name and hash of each of its source files, and of files that its options name, as :mod:`vlarig.envs.sources`
    finds them.
    """

    name: str
    revision: str
    needs: Needs
    horizon: int | None
    n_action_steps: int | None
    batch_sensitive: bool
    stateful: bool
    takes_prefix: bool
    reads_state: bool
    embodiments: tuple[Embodiment, ...]
    table_note: str
    transport_options: tuple[str, ...]
    sources: dict[str, str]

    @classmethod
    def of(cls, policy: Policy, sources: Mapping[str, str]) -> Description:
        """The description of a policy of this process; its members are read, which may raise anything."""
        read = {name: getattr(policy, name) for name in cls.__struct_fields__ if name != "sources"}
        read |= {"embodiments": tuple(policy.embodiments), "transport_options": tuple(sorted(policy.transport_options))}
        return cls(**read, sources=dict(sources))


class Check(MessageStruct, frozen=True):
    """Does the policy fit the suite?"""

    suite: str
    embodiment: Embodiment


class Strict(MessageStruct, frozen=True):
    """Compute in one thread in float32."""


class Record(MessageStruct, frozen=True):
    """Record from now on, with the policy's own options; no more with ``None``."""

    options: dict[str, Any] | None


class LoadWeights(MessageStruct, frozen=True):
    """Take the weights in a file of the format safetensors."""

    version: int
    path: str


class HorizonFor(MessageStruct, frozen=True):
    """How many steps are answered to this embodiment?"""

    embodiment: Embodiment


class Done(MessageStruct, frozen=True):
    """It is done; ``steps`` answers :class:`HorizonFor`."""

    steps: int | None = None


class ActRequest(MessageStruct, frozen=True):
    """Answer the requests that come next, as one batch."""


class ValueRequest(MessageStruct, frozen=True):
    """Give the value at each of the requests that come next."""


class ValueReply(MessageStruct, frozen=True):
    """The values, ``float32[B]``."""

    values: np.ndarray


class PackedRequest(MessageStruct, frozen=True):
    """One request of a batch."""

    request: Request


class ActReply(MessageStruct, frozen=True):
    """The batch is answered by the replies that come next; ``version`` is the policy's."""

    version: int


class PackedReply(MessageStruct, frozen=True):
    """One reply, its actions ``float32[H, A]``."""

    reply: Reply


class Failed(MessageStruct, frozen=True):
    """The policy raised; ``message`` is the whole sentence, ``traceback`` is for a log."""

    kind: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: VlarigError | PolicyLost) -> Failed:
        sentence = str(error)[:_LONGEST_SENTENCE].encode(errors="replace").decode()
        if isinstance(error, PolicyLost):
            return cls(LOST, sentence)
        trace = error.traceback.encode(errors="replace").decode()
        return cls(POLICY if isinstance(error, PolicyError) else OTHER, sentence, trace)

    def error(self) -> VlarigError | PolicyLost:
        """The same as the exception to raise."""
        if self.kind == LOST:
            return PolicyLost(self.message)
        return (PolicyError if self.kind == POLICY else VlarigError)(self.message, traceback=self.traceback)


#: What a policy is to do besides acting; it is answered by :class:`Done`.
Order = Check | Strict | HorizonFor | Record | LoadWeights

Message = Description | Order | Done | ActRequest | ValueRequest | PackedRequest | ActReply | ValueReply | PackedReply | Failed


def encode(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        BadMessageError: It holds what does not travel, or is too large.
    """
    data = pack(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"{type(message).__name__} has {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return data


def decode(data: bytes) -> Message:
    """The message in ``data``.

    Raises:
        BadMessageError: There is none; the message says why.
    """
    return unpack(data, Message)


def join(parts: Sequence[bytes]) -> bytes:
    """Encoded messages as the body of a frame."""
    return b"".join(piece for part in parts for piece in (_SIZE.pack(len(part)), part))


def split(body: bytes | bytearray) -> list[bytes]:
    """The encoded messages in the body of a frame.

    Raises:
        BadMessageError: It does not consist of some.
    """
    parts, begin = [], 0
    while begin < len(body):
        end = begin + _SIZE.size
        if end <= len(body):
            begin, end = end, end + _SIZE.unpack_from(body, begin)[0]
        if end > len(body):
            raise BadMessageError(f"a part that ends at {end} of {len(body)} bytes")
        parts.append(bytes(memoryview(body)[begin:end]))
        begin = end
    return parts


def save_weights(state: Mapping[str, Any], file: Path) -> None:
    """Write tensors by name, of torch or of numpy, to a file."""
    try:
        if all(isinstance(tensor, np.ndarray) for tensor in state.values()):
            from safetensors.numpy import save_file
        else:
            from safetensors.torch import save_file

            # Copies of what is not laid out in order, and of tied weights, which the format does not have.
            owners = {tensor.data_ptr(): name for name, tensor in state.items()}
            state = {
                name: (tensor if owners[tensor.data_ptr()] == name else tensor.clone()).detach().contiguous()
                for name, tensor in state.items()
            }
        save_file(dict(state), file)
    except ImportError as error:
        raise _missing(error) from None
    except OSError as error:
        raise PolicyError(f"the weights for the replicas cannot be written to {file} ({error}); make room there") from None


def read_weights(file: Path) -> dict[str, Any]:
    """Tensors by name: of torch in a process that has imported it, else of numpy."""
    try:
        from safetensors import SafetensorError
    except ImportError as error:
        raise _missing(error) from None
    if "torch" in sys.modules:
        from safetensors.torch import load_file
    else:
        from safetensors.numpy import load_file
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"the weights at {file} cannot be read ({error})") from None


def _missing(error: ImportError) -> PolicyError:
    return PolicyError(not_importable("replicas need", error, "policy"))
