"""A replica: one policy in a process of its own, run as ``python -m vlarig.policies.replica``.

It listens on nothing. It is told on standard input what to load, answers its parent on an inherited socket, and ends with it.
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
from typing import Any

from ..envs.errors import BadMessageError, VlarigError
from ..envs.framing import receive_frame, send_frame
from ..envs.sources import source_hashes
from ..envs.wire import MAX_MESSAGE_BYTES
from .api import Policy, PolicyError, Reply
from .calls import check_fit, horizon_for, make_strict, policy_code, policy_error
from .registry import loaded_policy, policy_sources
from .replica_messages import (
    OTHER,
    POLICY,
    Act,
    Acted,
    Check,
    Done,
    Failed,
    Given,
    Greeting,
    MakeStrict,
    Message,
    Question,
    Rows,
    decode,
    encode,
)
from .replies import checked_replies

#: prctl option: the kernel sends us a signal when the parent dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1

#: Most characters of what is said of a failure.
_LONGEST_SENTENCE = 10_000


@dataclass(frozen=True)
class Told:
    """What a replica is told, as one line of JSON.

    Attributes:
        channel: Number of the inherited socket.
        policy: The policy's name.
        options: What it is told.
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
    told = Told(**json.loads(line))
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    sys.path[:] = told.path
    channel = socket.socket(fileno=told.channel)
    channel.set_inheritable(False)
    with (
        contextlib.suppress(EOFError, ConnectionError),
        contextlib.ExitStack() as stack,
    ):  # the parent does not want us any more
        try:
            policy = stack.enter_context(loaded_policy(told.policy, told.options))
            with policy_code(told.policy, "while it said what it is"):
                greeting = encode(_greeting(policy, told.policy))
        except VlarigError as error:
            send_frame(channel, encode(_failure(-1, error)))
            return
        send_frame(channel, greeting)
        _serve(policy, channel)


def _serve(policy: Policy, channel: socket.socket) -> None:
    while True:
        request = decode(receive_frame(channel))
        questions = [decode(receive_frame(channel)) for _ in range(request.count)] if isinstance(request, Act) else []
        for data in _answers(policy, request, questions):
            send_frame(channel, data)


def _answers(policy: Policy, request: Message, questions: Sequence[Message]) -> list[bytes]:
    """The messages that answer a request, encoded. Whatever the policy does wrong is an answer too."""
    assert isinstance(request, (Check, MakeStrict, Rows, Act)), request
    try:
        if isinstance(request, Act):
            return _acted(policy, request.id, questions)
        return [encode(_done(policy, request))]
    except VlarigError as error:
        return [encode(_failure(request.id, error))]
    except BaseException as error:  # KeyboardInterrupt too: we are on no terminal, so it is the policy's own
        return [encode(_failure(request.id, policy_error(policy.name, f"at {type(request).__name__}", error)))]


def _done(policy: Policy, request: Check | MakeStrict | Rows) -> Done:
    if isinstance(request, Rows):
        return Done(request.id, horizon_for(policy, request.embodiment))
    if isinstance(request, Check):
        check_fit(policy, request.suite, request.embodiment)
    else:
        make_strict(policy)
    return Done(request.id)


def _acted(policy: Policy, number: int, questions: Sequence[Message]) -> list[bytes]:
    requests = [question.request() for question in questions if isinstance(question, Question)]
    replies = checked_replies(policy, requests)
    head = encode(Acted(number, len(replies), getattr(policy, "version", 0)))
    return [head, *(_given(policy, number, reply) for reply in replies)]


def _given(policy: Policy, number: int, reply: Reply) -> bytes:
    """A reply as bytes.

    Raises:
        PolicyError: Its extras do not travel.
    """
    try:
        data = encode(Given(number, reply.actions, reply.extras))
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


def _greeting(policy: Policy, named: str) -> Greeting:
    def told(name: str, otherwise: Any) -> Any:
        return getattr(policy, name, otherwise)

    return Greeting(
        name=policy.name,
        revision=policy.revision,
        needs=policy.needs,
        horizon=policy.horizon,
        rounds_by_batch=bool(told("rounds_by_batch", False)),
        keeps_notes=bool(told("keeps_notes", True)),
        reads_state=bool(told("reads_state", True)),
        embodiments=tuple(told("embodiments", ())),
        transport_options=tuple(sorted(told("transport_options", ()))),
        sources=source_hashes(policy_sources(named)),
    )


def _failure(number: int, error: VlarigError) -> Failed:
    sentence = str(error)[:_LONGEST_SENTENCE].encode(errors="replace").decode()
    story = error.traceback.encode(errors="replace").decode()
    return Failed(number, POLICY if isinstance(error, PolicyError) else OTHER, sentence, story)


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
