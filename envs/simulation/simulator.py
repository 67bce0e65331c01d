"""The worker: owns envs, and carries out one request at a time.

Its supervisor survives every failure here, such as a segmentation fault or an endless loop.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Union

from ..api import Env
from ..errors import BadMessageError, UnfitEpisodeError, VlarigError
from ..faults import describe, traceback_of
from ..framing import Frame, receive_frame, send_frame
from ..messages import (
    ENV_ERROR,
    REFUSED,
    UNFIT,
    WIRE_VERSION,
    Failure,
    Prepare,
    Prepared,
    Start,
    Started,
    Step,
    Stepped,
    Welcome,
    decode,
    encode,
)
from ..wire import MAX_MESSAGE_BYTES


def load_adapter(name: str) -> type[Env]:
    """The :class:`~vlarig.envs.api.Env` subclass named ``module:Class``."""
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
    """The envs of a process by number; all but the first are siblings, so that they can share what their adapter allows."""

    adapter: type[Env]
    envs: dict[int, Env]

    def answer(self, number: int, request: Union[Start, Step, Prepare]) -> Union[Started, Stepped, Prepared, Failure]:
        """Carry out a request for an env; a failure is an answer too."""
        try:
            if isinstance(request, Start):
                return Started(self._env(number).open(request.episode, request.needs))
            if isinstance(request, Prepare):
                return Prepared(self._env(number).prepare(request.episode))
            return Stepped(self._env(number).step_chunk(request.actions))
        except UnfitEpisodeError as error:
            return Failure(UNFIT, str(error))
        except VlarigError as error:
            return Failure(REFUSED, str(error))
        except (
            BaseException
        ) as error:  # SystemExit too; KeyboardInterrupt is the adapter's own, since this process has no terminal
            traceback.print_exc()
            self._discard(number)
            return Failure(ENV_ERROR, describe(error), traceback_of(error))

    def _discard(self, number: int) -> None:
        """Close an env that raised; the next episode gets another one."""
        env = self.envs.pop(number, None)
        if env is None:
            return
        try:
            env.close()
        except BaseException:
            traceback.print_exc()

    def _env(self, number: int) -> Env:
        if number not in self.envs:
            first = next(iter(self.envs.values()), None)
            self.envs[number] = self.adapter() if first is None else first.sibling()
        return self.envs[number]


def main(config: dict[str, Any]) -> None:
    """Serve the requests that follow on standard input, which is a socket, until it ends."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        adapter = load_adapter(config["adapter"])
        rack = EnvRack(adapter, {0: adapter()})
    except BaseException as error:
        if isinstance(error, VlarigError):
            refusal = error
        else:
            traceback.print_exc()
            refusal = VlarigError(f"{config['adapter']} cannot start ({describe(error)})", traceback=traceback_of(error))
        send_frame(channel, encode(Failure(REFUSED, str(refusal), refusal.traceback)))
        return
    send_frame(channel, encode(Welcome(WIRE_VERSION, adapter.embodiment)))
    while True:
        try:
            request = receive_frame(channel)
        except EOFError:
            return
        send_frame(channel, encode_answer(rack.answer(request.env, decode(request)), request.id))


def encode_answer(answer: Union[Started, Stepped, Prepared, Failure], number: int) -> Frame:
    """The frame of a reply; a reply that cannot be encoded becomes a failure with the reason."""
    try:
        frame = encode(answer, number)
    except BadMessageError as error:
        return encode(Failure(ENV_ERROR, f"the env's answer cannot be sent ({error})"), number)
    size = len(frame.body)
    if size <= MAX_MESSAGE_BYTES:
        return frame
    sentence = f"the env's answer has {size} bytes, at most {MAX_MESSAGE_BYTES} can be sent; request smaller or fewer images"
    return encode(Failure(REFUSED, sentence), number)
