"""The wire's codec: msgpack with typed numpy arrays, read by msgspec into typed, validated messages.

A message is the length of its head, its head, and the bytes of its arrays one after the other. The head is msgpack, in which an
extension takes the place of each array and gives its dtype and shape. So images cost their bytes and no more, and all else is small.

Nothing is ever unpickled. Sizes, fields, types, dtypes and shapes are checked, and all that can go wrong is one
:class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Union

import msgspec
import numpy as np

from .errors import BadMessageError
from .untrusted import build_array, one_line

#: Largest message in bytes, either way. A chunk's answer with 64 frames of two 256x256 views is 25 MB.
MAX_MESSAGE_BYTES = 64 * 2**20

#: Largest head in bytes. The answer to a chunk of 64 steps has 7 kB, to one of 4096 steps 0.4 MB.
MAX_HEAD_BYTES = 2**19

_PREFIX = struct.Struct(">I")
_ARRAY_EXTENSION = 1
_DTYPES = tuple(np.dtype(name) for name in ("|u1", "|b1", "<i4", "<i8", "<f4", "<f8"))
_NUMBERS = {dtype: number for number, dtype in enumerate(_DTYPES)}


class MessageStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of the messages: a map of its fields, the first of which is ``type``, the class's name."""


def pack(value: object) -> bytes:
    """``value`` as bytes: structs and dataclasses (as maps of their fields), plain data, numpy arrays and numbers.

    Raises:
        BadMessageError: It holds something else, or an array of a dtype that does not travel, or too much beside its arrays.
    """
    bodies: list[Any] = []

    def pack_other(value: object) -> object:
        if isinstance(value, np.ndarray):
            array = _sendable(value)
            bodies.append(array)
            return msgspec.msgpack.Ext(_ARRAY_EXTENSION, struct.pack(f"<B{value.ndim}I", _NUMBERS[array.dtype], *value.shape))
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"values of type {type(value).__name__} do not travel")

    try:
        head = msgspec.msgpack.encode(value, enc_hook=pack_other)
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise BadMessageError(one_line(f"cannot send {type(value).__name__}: {error}")) from None
    if len(head) > MAX_HEAD_BYTES:
        raise BadMessageError(
            f"cannot send {type(value).__name__}: {len(head)} bytes beside arrays, at most {MAX_HEAD_BYTES} are allowed; "
            "make arrays of numbers"
        )
    return b"".join([_PREFIX.pack(len(head)), head, *bodies])


def unpack(data: Union[bytes, bytearray], kind: Any) -> Any:
    """The ``kind`` in ``data``, with read-only arrays.

    Args:
        data: What arrived.
        kind: Type of the value: a struct, a dataclass, a union of structs with tags, or ``Any`` for plain data.

    Raises:
        BadMessageError: ``data`` is not one well-formed message of at most :data:`MAX_MESSAGE_BYTES`, or it holds something else.
            The sentence names the place.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    end = _PREFIX.size + int.from_bytes(data[: _PREFIX.size], "big")
    if not _PREFIX.size <= end <= len(data):
        raise BadMessageError(f"a message of {len(data)} bytes cannot have a head that ends at {end}")
    if end - _PREFIX.size > MAX_HEAD_BYTES:
        raise BadMessageError(f"a message with {end - _PREFIX.size} bytes beside arrays; at most {MAX_HEAD_BYTES} are allowed")

    view = memoryview(data)

    def take_array(code: int, described: memoryview) -> np.ndarray:
        nonlocal end
        dtype, shape = _read_description(code, described)
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        content = view[begin:end]
        # Images refer to the message. All else is copied: a number that is kept would keep the images, and needs its alignment.
        return build_array(dtype, shape, content if dtype == np.uint8 else bytes(content))

    try:
        value = msgspec.msgpack.decode(view[_PREFIX.size : end], type=kind, ext_hook=take_array)
    except BadMessageError:
        raise
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, as that of text that is no UTF-8 is
        raise BadMessageError(one_line(f"not a message of ours: {error}")) from None
    if end != len(data):
        raise BadMessageError(f"a message of {len(data)} bytes that ends at {end}")
    return value


def _sendable(array: np.ndarray) -> np.ndarray:
    """The same values, contiguous and little-endian."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise TypeError(f"arrays of {array.dtype} do not travel; use one of {', '.join(map(str, _DTYPES))}")
    return np.ascontiguousarray(array, dtype)


def _read_description(code: int, described: memoryview) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape that an extension of the head gives."""
    if code != _ARRAY_EXTENSION:
        raise BadMessageError(f"msgpack extension {code}; only {_ARRAY_EXTENSION} (an array) is known")
    dimensions, rest = divmod(len(described) - 1, 4)
    if rest or dimensions < 0 or described[0] >= len(_DTYPES):
        raise BadMessageError(f"an array must be described by a dtype's number below {len(_DTYPES)} and sizes of 4 bytes")
    return _DTYPES[described[0]], struct.unpack_from(f"<{dimensions}I", described, 1)
