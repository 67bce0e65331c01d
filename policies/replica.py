"""A replica: one policy in a process of its own, run as ``python -m vlarig.policies.replica``.

It listens on nothing. Its standard input is a socket to its driver: on it comes one line of JSON, what to load, and then frames.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

from ..envs.errors import BadMessageError, VlarigError
from ..envs.framing import Frame, receive_frame, send_frame
from ..envs.sources import source_hashes
from .api import Policy, PolicyError, Reply
from .calls import carry_out, checked_replies, policy_code, policy_error, values_of
from .registry import loaded_policy, option_sources, policy_sources
from .replica_messages import (
    MAX_BATCH_BYTES,
    ActReply,
    Description,
    Done,
    Failed,
    Message,
    Order,
    PackedReply,
    PackedRequest,
    ValueReply,
    ValueRequest,
    decode,
    encode,
    join,
    split,
)


def main() -> None:
    """Serve the driver until it closes the socket."""
    with open(0, "rb", buffering=0, closefd=False) as standard_input:  # not a byte more: what follows are frames
        line = standard_input.readline()
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    arguments = json.loads(line)
    name = arguments["policy"]
    sys.path[:] = arguments["path"]
    with (
        contextlib.suppress(EOFError, ConnectionError),  # the driver closed the connection
        contextlib.ExitStack() as stack,
    ):
        try:
            policy = stack.enter_context(loaded_policy(name, arguments["options"]))
            with policy_code(name, "while it was described"):
                sources = [*policy_sources(name), *option_sources(name, policy, arguments["options"])]
                description = encode(Description.of(policy, source_hashes(sources)))
        except VlarigError as error:
            _send(channel, 0, [encode(Failed.of(error))])
            return
        _send(channel, 0, [description])
        while True:
            frame = receive_frame(channel, MAX_BATCH_BYTES)
            _send(channel, frame.id, _answers(policy, [decode(part) for part in split(frame.body)]))


def _send(channel: socket.socket, number: int, parts: list[bytes]) -> None:
    send_frame(channel, Frame(number, 0, 0, 0, join(parts)))


def _answers(policy: Policy, messages: list[Message]) -> list[bytes]:
    """The messages that answer a request, encoded. A failure of the policy is an answer too."""
    first, *batch = messages
    try:
        if isinstance(first, Order):
            return [encode(Done(carry_out(policy, first)))]
        requests = [packed.request for packed in batch if isinstance(packed, PackedRequest)]
        if isinstance(first, ValueRequest):
            return [encode(ValueReply(values_of(policy, requests)))]
        replies = checked_replies(policy, requests)
        return [encode(ActReply(policy.version)), *(_packed_reply(policy, reply) for reply in replies)]
    except VlarigError as error:
        return [encode(Failed.of(error))]
    except BaseException as error:  # KeyboardInterrupt too: we are on no terminal, so it is the policy's own
        return [encode(Failed.of(policy_error(policy.name, f"at {type(first).__name__}", error)))]


def _packed_reply(policy: Policy, reply: Reply) -> bytes:
    try:
        data = encode(PackedReply(reply))
        if reply.recorded is not None:
            decode(data)  # what can be packed is not always what may be unpacked
    except BadMessageError as error:
        raise PolicyError(
            f"the policy {policy.name!r} recorded what cannot leave its process ({error}); make it of arrays, numbers, "
            "texts, lists and maps by text, or leave out --replicas"
        ) from None
    return data


if __name__ == "__main__":
    main()
