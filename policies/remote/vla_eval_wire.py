"""vla-eval's wire: a message is a msgpack map of ``type``, ``payload``, ``seq`` and ``timestamp``, with numpy arrays as maps.

The form is that of allenai/vla-evaluation-harness src/vla_eval/protocol/{messages,numpy_codec}.py as in vla-eval 0.8.0. Images are sent
raw, which its servers read as they read PNG, for a hundredth of the time.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np

from ...envs.errors import BadMessageError
from ...envs.untrusted import one_line
from .wire import MAX_MESSAGE_BYTES, array_as_map, array_in_map, decode, encode

#: Version of the protocol that is spoken here, compared when a connection begins (``PROTOCOL_VERSION`` of messages.py).
PROTOCOL_VERSION = 1

#: Kinds of messages.
HELLO, EPISODE_START, OBSERVATION, ACTION, EPISODE_END, ERROR = (
    "hello",
    "episode_start",
    "observation",
    "action",
    "episode_end",
    "error",
)

_ARRAY_KEYS = ("__ndarray__", "data", "dtype", "shape")


class Message(msgspec.Struct, frozen=True):
    """A message.

    Attributes:
        seq: Its number; an answer bears the number of the message that it answers.
    """

    kind: str = msgspec.field(name="type")
    payload: dict[str, Any]
    seq: int


def pack(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        BadMessageError: It holds a value that does not travel, or is too large.
    """
    value = {"type": message.kind, "payload": message.payload, "seq": message.seq, "timestamp": time.time()}
    data = encode(value, _pack_other, message.kind)
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"cannot send {message.kind}: {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return data


def pack_payload(payload: dict[str, Any]) -> bytes:
    """A message's content as bytes, equal for equal content. These bytes are compared, because arrays compare element by element.

    Raises:
        BadMessageError: It holds a value that does not travel.
    """
    return encode(payload, _pack_other, f"a map of {', '.join(map(str, payload))[:80]}")


def unpack(data: bytes | str) -> Message:
    """The message in ``data``; its arrays are read-only.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
    """
    value = decode(data, _unpack_map)
    if not isinstance(value, dict) or not isinstance(value.get("payload"), dict):
        raise BadMessageError("a message of vla-eval's has to be a map, and its payload too")
    try:
        return msgspec.convert(value, Message)
    except msgspec.ValidationError as error:
        raise BadMessageError(one_line(f"not a message of vla-eval's: {error}")) from None


def _pack_other(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else array_as_map(value, _ARRAY_KEYS)


def _unpack_map(value: dict[Any, Any]) -> Any:
    return array_in_map(value, _ARRAY_KEYS) if "__ndarray__" in value else value
