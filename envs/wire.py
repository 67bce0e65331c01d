"""The wire's codec: msgpack with typed numpy arrays.

A message is the length of its head, its head, and the bytes of its arrays one after the other. The head is msgpack, in which an
extension stands for each array and gives its dtype and shape. So images cost their bytes and no more, and all else is small.

Nothing is ever unpickled. Whatever arrives is untrusted: lengths, counts, types, dtypes, shapes and depths are checked, and all that
can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any, cast

import msgpack
import numpy as np

from .errors import BadMessageError
from .untrusted import MAX_DIMENSIONS, Limits, build_array, read_msgpack

#: Largest message in bytes, either way. A chunk's answer with 64 frames of two 256x256 views is 25 MB.
MAX_MESSAGE_BYTES = 64 * 2**20

#: What a head may hold. The answer to a chunk of 64 rows has 7 kB, 700 values and a depth of 5.
HEAD_LIMITS = Limits(bytes=2**20, values=2**16, items=4096, entries=4096, text=2**20, depth=32)

_PREFIX = struct.Struct(">I")
_ARRAY_EXTENSION = 1
_DTYPES = tuple(np.dtype(name) for name in ("|u1", "|b1", "<i4", "<i8", "<f4", "<f8"))
_NUMBERS = {dtype: number for number, dtype in enumerate(_DTYPES)}


def pack(value: object) -> bytes:
    """``value`` as bytes: plain data, numpy arrays and numbers, and dataclasses (as maps of their fields).

    Raises:
        BadMessageError: It holds something else, or an array of a dtype that does not travel, or too much beside its arrays.
    """
    bodies: list[Any] = []

    def pack_other(value: object) -> object:
        if isinstance(value, np.ndarray):
            array = _sendable(value)
            bodies.append(array)
            return msgpack.ExtType(_ARRAY_EXTENSION, struct.pack(f"<B{value.ndim}I", _NUMBERS[array.dtype], *value.shape))
        if isinstance(value, np.generic):
            return value.item()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        raise TypeError(f"values of type {type(value).__name__} do not travel")

    try:
        head = cast("bytes", msgpack.packb(value, default=pack_other))
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise BadMessageError(f"cannot send {type(value).__name__}: {error}") from None
    if len(head) > HEAD_LIMITS.bytes:
        raise BadMessageError(
            f"cannot send {type(value).__name__}: {len(head)} bytes beside arrays, at most {HEAD_LIMITS.bytes} are allowed; "
            "make arrays of numbers"
        )
    return b"".join([_PREFIX.pack(len(head)), head, *bodies])


def unpack(data: bytes) -> Any:
    """The plain data and read-only arrays in ``data``; strict about everything.

    Raises:
        BadMessageError: ``data`` is not one well-formed message of at most :data:`MAX_MESSAGE_BYTES`.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    end = _PREFIX.size + int.from_bytes(data[: _PREFIX.size], "big")
    if not _PREFIX.size <= end <= len(data):
        raise BadMessageError(f"a message of {len(data)} bytes cannot have a head that ends at {end}")

    def take_array(code: int, described: bytes) -> np.ndarray:
        nonlocal end
        dtype, shape = _read_description(code, described)
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        return build_array(dtype, shape, data[begin:end])

    value = read_msgpack(data[_PREFIX.size : end], HEAD_LIMITS, take_array)
    if end != len(data):
        raise BadMessageError(f"a message of {len(data)} bytes that ends at {end}")
    return value


def _sendable(array: np.ndarray) -> np.ndarray:
    """The same values, contiguous and little-endian."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise TypeError(f"arrays of {array.dtype} do not travel; use one of {', '.join(map(str, _DTYPES))}")
    if array.ndim > MAX_DIMENSIONS:
        raise TypeError(f"arrays of {array.ndim} dimensions do not travel; at most {MAX_DIMENSIONS} are allowed")
    return np.ascontiguousarray(array, dtype)


def _read_description(code: int, described: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape that an extension of the head gives."""
    if code != _ARRAY_EXTENSION:
        raise BadMessageError(f"msgpack extension {code}; only {_ARRAY_EXTENSION} (an array) is known")
    dimensions, rest = divmod(len(described) - 1, 4)
    if rest or not 0 <= dimensions <= MAX_DIMENSIONS or described[0] >= len(_DTYPES):
        raise BadMessageError(
            f"an array must be described by a dtype's number below {len(_DTYPES)} and at most {MAX_DIMENSIONS} sizes of 4 bytes"
        )
    return _DTYPES[described[0]], struct.unpack_from(f"<{dimensions}I", described, 1)
