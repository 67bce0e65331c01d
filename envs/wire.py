"""The wire's codec: msgpack with typed numpy arrays.

Nothing is ever unpickled. Whatever arrives is untrusted: sizes, types, dtypes and depths are checked before a value is built, and all
that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import msgpack
import numpy as np

from .errors import BadMessageError

#: Largest message in bytes, either way. A chunk's answer with 64 frames of two 256x256 views is 25 MB.
MAX_MESSAGE_BYTES = 64 * 2**20

_ARRAY_EXTENSION = 1
_ARRAY_DTYPES = ("|u1", "|b1", "<i4", "<i8", "<f4", "<f8")
_MAX_DIMENSIONS = 8


def pack(value: object) -> bytes:
    """``value`` as msgpack: plain data, numpy arrays and numbers, and dataclasses (as maps of their fields).

    Raises:
        BadMessageError: It holds something else, or an array of a dtype that does not travel.
    """
    try:
        return cast("bytes", msgpack.packb(value, default=_pack_other, strict_types=False))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError(f"cannot send {type(value).__name__}: {error}") from None


def unpack(data: bytes) -> Any:
    """The plain data and read-only arrays in ``data``; strict about everything.

    Raises:
        BadMessageError: ``data`` is not one well-formed message of at most :data:`MAX_MESSAGE_BYTES`.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        return msgpack.unpackb(data, ext_hook=_unpack_extension, strict_map_key=True, raw=False, use_list=True)
    except BadMessageError:
        raise
    except Exception as error:  # msgpack raises ValueErrors of many kinds, and StackError on deep nesting
        raise BadMessageError(f"not a msgpack message ({type(error).__name__}: {error})"[:300]) from None


def _pack_other(value: object) -> object:
    if isinstance(value, np.ndarray):
        dtype = value.dtype.newbyteorder("<").str if value.dtype.itemsize > 1 else value.dtype.str
        if dtype not in _ARRAY_DTYPES:
            raise TypeError(f"arrays of {value.dtype} do not travel; use one of {', '.join(_ARRAY_DTYPES)}")
        head = cast("bytes", msgpack.packb([dtype, value.shape]))
        return msgpack.ExtType(_ARRAY_EXTENSION, head + np.ascontiguousarray(value, dtype=dtype).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"values of type {type(value).__name__} do not travel")


def _unpack_extension(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY_EXTENSION:
        raise BadMessageError(f"msgpack extension {code}; only {_ARRAY_EXTENSION} (an array) is known")
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1), max_array_len=_MAX_DIMENSIONS, max_map_len=0, max_ext_len=0)
    unpacker.feed(data)
    head = unpacker.unpack()
    if not (isinstance(head, list) and len(head) == 2 and head[0] in _ARRAY_DTYPES and isinstance(head[1], list)):
        raise BadMessageError(f"an array must begin with [dtype, shape], dtype one of {', '.join(_ARRAY_DTYPES)}")
    dtype, shape = np.dtype(head[0]), head[1]
    if not all(type(size) is int and 0 <= size <= MAX_MESSAGE_BYTES for size in shape):
        raise BadMessageError("an array's shape must be a list of sizes")
    body = memoryview(data)[unpacker.tell() :]
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(body):
        raise BadMessageError(f"an array of shape {shape} and dtype {dtype} cannot have {len(body)} bytes")
    return np.frombuffer(body, dtype=dtype).reshape(shape)
