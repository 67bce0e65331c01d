"""Messages of msgpack from anyone, with arrays as maps: what the wires of openpi and of vla-eval have in common.

The originals' readers build whatever dtype and shape a message names. Here dtypes, shapes, sizes, counts and depths are checked
(:mod:`vlarig.envs.untrusted`), and all that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..envs.errors import BadMessageError
from ..envs.untrusted import MAX_DIMENSIONS, Limits, build_array, read_msgpack

#: Largest message in bytes, either way. Four uncompressed views of 480x640 pixels are 3.7 MB.
MAX_MESSAGE_BYTES = 16 * 2**20

#: What a message may hold; an array is four values.
LIMITS = Limits(bytes=MAX_MESSAGE_BYTES, values=20_000, items=1024, entries=256, text=2**16, depth=8)

#: Dtypes that travel: truth values and numbers of one to eight bytes, little-endian.
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")


def decode(data: bytes | str, object_hook: Callable[[dict[Any, Any]], Any]) -> Any:
    """The value in ``data``.

    Args:
        data: What arrived.
        object_hook: Makes of a map what it stands for, the innermost first; a map that stands for nothing else it returns.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message; or ``object_hook`` raised it.
    """
    if isinstance(data, str):
        raise BadMessageError("a message of text; expected msgpack in a binary frame")
    return read_msgpack(data, LIMITS, read_map=object_hook)


def read_array(dtype_name: object, shape: object, data: object) -> np.ndarray:
    """The array that a message describes, read-only.

    Raises:
        BadMessageError: It is of a dtype that does not travel, ``shape`` is none, or the bytes do not fill it.
    """
    dtype = read_dtype(dtype_name)
    if not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS):
        raise BadMessageError(f"an array's shape has to be a list of at most {MAX_DIMENSIONS} sizes")
    if not all(type(size) is int and 0 <= size <= MAX_MESSAGE_BYTES for size in shape):
        raise BadMessageError("an array's shape has to be a list of sizes")
    if not isinstance(data, bytes):
        raise BadMessageError(f"an array of shape {shape} and dtype {dtype} cannot have data of type {type(data).__name__}")
    return build_array(dtype, shape, data)


def read_dtype(name: object) -> np.dtype[Any]:
    """The dtype of that name.

    Raises:
        BadMessageError: It does not travel.
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise BadMessageError(f"an array of dtype {str(name)[:40]!r}; expected one of {', '.join(DTYPES)}")
    return np.dtype(name)


def dtype_to_send(value: np.ndarray | np.generic) -> np.dtype[Any]:
    """The little-endian dtype in which ``value`` travels.

    Raises:
        TypeError: It has none; a default function of msgpack's may raise this.
    """
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"arrays of {value.dtype} do not travel; use one of {', '.join(DTYPES)}")
    return dtype
