"""The simulator process: owns the envs of one sim server, one a slot, and runs one request at a time.

Whatever happens in here, a segmentation fault or an endless loop, the server that holds the sockets survives it.
"""

from __future__ import annotations

import importlib
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from ...envs.api import Env
from ...envs.errors import BadMessageError, VlarigError
from ...envs.faults import describe, traceback_of
from ...envs.framing import receive_frame, send_frame
from ...envs.messages import (
    ENV_ERROR,
    REFUSED,
    WIRE_VERSION,
    Failure,
    Message,
    Start,
    Started,
    Step,
    Stepped,
    Welcome,
    decode,
    encode,
)
from ...envs.wire import MAX_MESSAGE_BYTES


def load_adapter(name: str) -> type[Env]:
    """The :class:`~vlarig.envs.api.Env` subclass named ``module:Class``.

    Raises:
        VlarigError: The module cannot be imported or has no such class.
    """
    module_name, _, class_name = name.partition(":")
    try:
        adapter = getattr(importlib.import_module(module_name), class_name, None)
    except BaseException as error:
        traceback.print_exc()
        raise VlarigError(
            f"the adapter {name} cannot be imported by {sys.executable} ({describe(error)}); "
            "'vlarig doctor' says what the runtime lacks",
            traceback=traceback_of(error),
        ) from None
    if not (isinstance(adapter, type) and issubclass(adapter, Env)):
        raise VlarigError(f"{module_name} has no Env subclass {class_name!r}; name the adapter as module:Class")
    return adapter


@dataclass
class EnvRack:
    """The envs of a process by slot; all but the first are siblings, so that they can share what their adapter lets them."""

    adapter: type[Env]
    envs: dict[int, Env]

    def answer(self, request: Message) -> Message:
        """Carry a request out; a failure is an answer too."""
        assert isinstance(request, (Start, Step))
        try:
            if isinstance(request, Start):
                return Started(request.id, self._env(request.slot).open(request.episode, request.needs))
            return Stepped(request.id, self._env(request.slot).step_chunk(request.actions))
        except VlarigError as error:
            return Failure(request.id, REFUSED, str(error))
        except BaseException as error:  # SystemExit too; KeyboardInterrupt is the adapter's own, since we are on no terminal
            traceback.print_exc()
            self._discard(request.slot)
            return Failure(request.id, ENV_ERROR, describe(error), traceback_of(error))

    def _discard(self, slot: int) -> None:
        """Close an env that raised; the slot's next episode gets another one."""
        env = self.envs.pop(slot, None)
        if env is None:
            return
        try:
            env.close()
        except BaseException:
            traceback.print_exc()

    def _env(self, slot: int) -> Env:
        if slot not in self.envs:
            first = next(iter(self.envs.values()), None)
            self.envs[slot] = self.adapter() if first is None else first.sibling()
        return self.envs[slot]


def main(config: dict[str, Any]) -> None:
    """Serve requests on the inherited socket until the server closes it."""
    channel = socket.socket(fileno=config["channel"])
    channel.set_inheritable(False)
    try:
        adapter = load_adapter(config["adapter"])
        rack = EnvRack(adapter, {0: adapter()})
    except BaseException as error:
        if isinstance(error, VlarigError):
            refusal = error
        else:
            traceback.print_exc()
            refusal = VlarigError(f"{config['adapter']} cannot start ({describe(error)})", traceback=traceback_of(error))
        send_frame(channel, encode(Failure(-1, REFUSED, str(refusal), refusal.traceback)))
        return
    send_frame(channel, encode(Welcome(WIRE_VERSION, adapter.embodiment)))
    while True:
        try:
            request = decode(receive_frame(channel))
        except EOFError:
            return
        send_frame(channel, encode_answer(rack.answer(request)))


def encode_answer(answer: Message) -> bytes:
    """An answer as bytes; one that cannot travel becomes a failure that says so."""
    assert isinstance(answer, (Started, Stepped, Failure))
    try:
        data = encode(answer)
    except BadMessageError as error:
        return encode(Failure(answer.id, ENV_ERROR, f"the env's answer cannot be sent ({error})"))
    if len(data) <= MAX_MESSAGE_BYTES:
        return data
    return encode(
        Failure(
            answer.id,
            REFUSED,
            f"the env's answer has {len(data)} bytes, at most {MAX_MESSAGE_BYTES} can be sent; ask for smaller or fewer images",
        )
    )
