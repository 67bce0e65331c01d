"""A replica: one policy in a process of its own, run as ``python -m vlarig.policies.replica``.

It listens on nothing. It reads on standard input what to load, answers its parent on an inherited socket, and ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..envs.errors import BadMessageError, VlarigError
from ..envs.framing import receive_frame, send_frame
from ..envs.sources import source_hashes
from ..envs.wire import MAX_MESSAGE_BYTES
from .api import Policy, PolicyError, Reply
from .calls import carry_out, policy_code, policy_error
from .registry import loaded_policy, policy_sources
from .replica_messages import (
    LOADED,
    ActReply,
    ActRequest,
    Description,
    Done,
    Failed,
    Message,
    Order,
    PackedReply,
    PackedRequest,
    decode,
    encode,
)
from .replies import checked_replies

#: prctl option: the kernel sends us a signal when the parent dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Arguments:
    """What a replica is to load, as one line of JSON on its standard input.

    Attributes:
        channel: Number of the inherited socket.
        policy: The policy's name.
        options: The policy's options.
        path: Where modules are imported from, as in the parent.
    """

    channel: int
    policy: str
    options: dict[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


def main() -> None:
    """Serve the parent until it closes the socket, or is gone."""
    _die_with_parent()
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the parent died before that
    arguments = Arguments(**json.loads(line))
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    sys.path[:] = arguments.path
    channel = socket.socket(fileno=arguments.channel)
    channel.set_inheritable(False)
    with (
        contextlib.suppress(EOFError, ConnectionError),
        contextlib.ExitStack() as stack,
    ):  # the parent does not want us any more
        try:
            policy = stack.enter_context(loaded_policy(arguments.policy, arguments.options))
            with policy_code(arguments.policy, "while it said what it is"):
                description = encode(Description.of(policy, source_hashes(policy_sources(arguments.policy))), LOADED)
        except VlarigError as error:
            send_frame(channel, encode(Failed.of(error), LOADED))
            return
        send_frame(channel, description)
        _serve(policy, channel)


def _serve(policy: Policy, channel: socket.socket) -> None:
    while True:
        number, message = decode(receive_frame(channel))
        count = message.count if isinstance(message, ActRequest) else 0
        batch = [decode(receive_frame(channel))[1] for _ in range(count)]
        for data in _answers(policy, number, message, batch):
            send_frame(channel, data)


def _answers(policy: Policy, number: int, message: Message, batch: Sequence[Message]) -> list[bytes]:
    """The messages that answer a request, encoded. Whatever the policy does wrong is an answer too."""
    try:
        if isinstance(message, Order):
            return [encode(Done(carry_out(policy, message)), number)]
        replies = checked_replies(policy, [packed.request for packed in batch if isinstance(packed, PackedRequest)])
        head = encode(ActReply(len(replies), getattr(policy, "version", 0)), number)
        return [head, *(_packed_reply(policy, number, reply) for reply in replies)]
    except VlarigError as error:
        return [encode(Failed.of(error), number)]
    except BaseException as error:  # KeyboardInterrupt too: we are on no terminal, so it is the policy's own
        return [encode(Failed.of(policy_error(policy.name, f"at {type(message).__name__}", error)), number)]


def _packed_reply(policy: Policy, number: int, reply: Reply) -> bytes:
    """A reply as bytes.

    Raises:
        PolicyError: Its extras do not travel.
    """
    try:
        data = encode(PackedReply(reply), number)
        if len(data) > MAX_MESSAGE_BYTES:
            raise BadMessageError(f"a reply of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
        if reply.extras:
            decode(data)  # what can be packed is not always what may be unpacked
    except BadMessageError as error:
        raise PolicyError(
            f"the policy {policy.name!r} gave a reply whose extras cannot leave its process ({error}); make them of arrays, numbers, "
            "texts, lists and maps by text, or leave out --replicas"
        ) from None
    return data


def _die_with_parent() -> None:
    """Have the kernel kill us with our parent, even in the middle of a policy's endless loop (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_standard_input() -> None:
    """The same elsewhere: the parent holds the other end of our standard input for as long as it lives."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
