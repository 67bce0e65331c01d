"""vla-eval's wire: a message is a msgpack map of ``type``, ``payload``, ``seq`` and ``timestamp``, with numpy arrays as maps.

The form is that of allenai/vla-evaluation-harness src/vla_eval/protocol/{messages,numpy_codec}.py as in vla-eval 0.8.0. Images are sent
raw, which its servers read as they read PNG, for a hundredth of the time. What arrives is untrusted: dtypes, shapes, sizes, counts and
depths are checked, and all that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import msgpack
import numpy as np

from ..envs.errors import BadMessageError

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
_KINDS = (HELLO, EPISODE_START, OBSERVATION, ACTION, EPISODE_END, ERROR)

#: Largest message in bytes, either way. Four uncompressed views of 480x640 pixels are 3.7 MB.
MAX_MESSAGE_BYTES = 16 * 2**20

_DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
_ARRAY_KEYS = {"__ndarray__", "data", "dtype", "shape"}
_MAX_DIMENSIONS = 8
_MAX_DEPTH = 8
#: Values of lists and maps in one message. A value may be one byte on the wire and fifty in memory.
_MAX_VALUES = 20_000


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        kind: What it is; one of the six above.
        payload: Its content.
        seq: Its number; an answer bears the number of the message that it answers.
    """

    kind: str
    payload: dict[str, Any]
    seq: int


def pack(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        BadMessageError: It holds something that does not travel, or is too large.
    """
    value = {"type": message.kind, "payload": message.payload, "seq": message.seq, "timestamp": time.time()}
    try:
        data = cast("bytes", msgpack.packb(value, default=_pack_other))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError(f"cannot send {message.kind}: {error}") from None
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"cannot send {message.kind}: {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    return data


def unpack(data: bytes | str) -> Message:
    """The message in ``data``; its arrays are read-only.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
    """
    if isinstance(data, str):
        raise BadMessageError("a message of text; expected msgpack in a binary frame")
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    value = _unpack_value(data)
    if not isinstance(value, dict) or not {"type", "payload", "seq"} <= set(value):
        raise BadMessageError("a message has to be a map of type, payload, seq and timestamp")
    kind, payload, seq = value["type"], value["payload"], value["seq"]
    if kind not in _KINDS:
        raise BadMessageError(f"a message of type {str(kind)[:40]!r}; expected one of {', '.join(_KINDS)}")
    if not isinstance(payload, dict) or type(seq) is not int:
        raise BadMessageError(f"the payload of {kind} has to be a map and its seq a whole number")
    return Message(kind, payload, seq)


def _unpack_value(data: bytes) -> Any:
    left = _MAX_VALUES

    def count(values: Any) -> Any:
        nonlocal left
        left -= 1 + len(values)
        if left < 0:
            raise BadMessageError(f"a message of more than {_MAX_VALUES} values")
        return values

    try:
        value = msgpack.unpackb(
            data,
            object_hook=lambda each: _unpack_map(count(each)),
            list_hook=count,
            raw=False,
            strict_map_key=True,
            max_array_len=_MAX_VALUES,
            max_map_len=_MAX_VALUES,
            max_ext_len=0,
        )
    except BadMessageError:
        raise
    except Exception as error:  # msgpack raises ValueErrors of many kinds, and StackError on deep nesting
        raise BadMessageError(f"not a msgpack message ({type(error).__name__}: {error})"[:300]) from None
    _check_depth(value, _MAX_DEPTH)
    return value


def _pack_other(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"values of type {type(value).__name__} do not travel")
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES:
        raise TypeError(f"arrays of {value.dtype} do not travel; use one of {', '.join(_DTYPES)}")
    data = np.ascontiguousarray(value, dtype).tobytes()
    return {"__ndarray__": True, "data": data, "dtype": dtype.str, "shape": list(value.shape)}


def _unpack_map(value: dict[Any, Any]) -> Any:
    if "__ndarray__" not in value:
        return value
    if set(value) != _ARRAY_KEYS:
        raise BadMessageError("an array has to be a map of __ndarray__, data, dtype and shape")
    name, shape, data = value["dtype"], value["shape"], value["data"]
    if name not in _DTYPES:
        raise BadMessageError(f"an array of dtype {str(name)[:40]!r}; expected one of {', '.join(_DTYPES)}")
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS):
        raise BadMessageError(f"an array's shape has to be a list of at most {_MAX_DIMENSIONS} sizes")
    if not all(type(size) is int and 0 <= size <= MAX_MESSAGE_BYTES for size in shape):
        raise BadMessageError("an array's shape has to be a list of sizes")
    count, dtype = 1, np.dtype(cast("str", name))
    for size in shape:
        count *= size
    if not isinstance(data, bytes) or count * dtype.itemsize != len(data):
        size = f"{len(data)} bytes" if isinstance(data, bytes) else f"data of type {type(data).__name__}"
        raise BadMessageError(f"an array of shape {shape} and dtype {dtype} cannot have {size}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _check_depth(value: object, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise BadMessageError(f"a message that is nested more than {_MAX_DEPTH} deep")
        for each in value.values() if isinstance(value, dict) else value:
            _check_depth(each, depth - 1)
