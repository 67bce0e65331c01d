"""Messages of msgpack from anyone, read strictly: what the wires of openpi and of vla-eval have in common.

The originals' readers build whatever dtype and shape a message names. Here dtypes, shapes, sizes, counts and depths are checked, and
all that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from ..envs.errors import BadMessageError

#: Largest message in bytes, either way. Four uncompressed views of 480x640 pixels are 3.7 MB.
MAX_MESSAGE_BYTES = 16 * 2**20

#: Dtypes that travel: truth values and numbers of one to eight bytes, little-endian.
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")

_MAX_DIMENSIONS = 8
_MAX_DEPTH = 8
#: Values of lists and maps in one message. A value may be one byte on the wire and fifty in memory.
_MAX_VALUES = 20_000


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
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    left = _MAX_VALUES

    def count(values: Any) -> Any:
        nonlocal left
        left -= 1 + len(values)
        if left < 0:
            raise BadMessageError(f"a message of more than {_MAX_VALUES} values; send numbers as arrays")
        return values

    try:
        value = msgpack.unpackb(
            data,
            object_hook=lambda each: object_hook(count(each)),
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


def read_array(dtype_name: object, shape: object, data: object) -> np.ndarray:
    """The array that a message describes, read-only.

    Raises:
        BadMessageError: It is of a dtype that does not travel, ``shape`` is none, or the bytes do not fill it.
    """
    dtype = read_dtype(dtype_name)
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS):
        raise BadMessageError(f"an array's shape has to be a list of at most {_MAX_DIMENSIONS} sizes")
    if not all(type(size) is int and 0 <= size <= MAX_MESSAGE_BYTES for size in shape):
        raise BadMessageError("an array's shape has to be a list of sizes")
    count = 1
    for size in shape:
        count *= size
    if not isinstance(data, bytes) or count * dtype.itemsize != len(data):
        size = f"{len(data)} bytes" if isinstance(data, bytes) else f"data of type {type(data).__name__}"
        raise BadMessageError(f"an array of shape {shape} and dtype {dtype} cannot have {size}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


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


def _check_depth(value: object, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise BadMessageError(f"a message that is nested more than {_MAX_DEPTH} deep")
        for each in value.values() if isinstance(value, dict) else value:
            _check_depth(each, depth - 1)
