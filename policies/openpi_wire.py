"""openpi's wire: msgpack with numpy arrays as maps, read strictly.

The form is that of Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/msgpack_numpy.py@15a9616. Its reader builds
whatever dtype and shape a message names; this one trusts nothing: dtypes, shapes, sizes, counts and depths are checked, and all that
can go wrong is one :class:`~vlarig.envs.errors.BadMessageError`.
"""

from __future__ import annotations

from typing import Any, cast

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

_ARRAY_KEYS = {b"__ndarray__", b"data", b"dtype", b"shape"}
_NUMBER_KEYS = {b"__npgeneric__", b"data", b"dtype"}


def pack(value: object) -> bytes:
    """``value`` in openpi's form: plain data, numpy arrays and numpy numbers.

    Raises:
        BadMessageError: It holds something else, or an array of a dtype that does not travel.
    """
    try:
        return cast("bytes", msgpack.packb(value, default=_pack_other))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError(f"cannot send {type(value).__name__}: {error}") from None


def unpack(data: bytes | str) -> Any:
    """The plain data, read-only arrays and numpy numbers in ``data``.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
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
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"values of type {type(value).__name__} do not travel")
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"arrays of {value.dtype} do not travel; use one of {', '.join(DTYPES)}")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype.str}
    return {
        b"__ndarray__": True,
        b"data": value.astype(dtype, copy=False).tobytes(),
        b"dtype": dtype.str,
        b"shape": value.shape,
    }


def _unpack_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _unpack_array(value)
    if b"__npgeneric__" in value:
        return _unpack_number(value)
    return value


def _unpack_array(value: dict[Any, Any]) -> np.ndarray:
    if set(value) != _ARRAY_KEYS:
        raise BadMessageError("an array has to be a map of __ndarray__, data, dtype and shape")
    dtype, shape, data = _dtype(value[b"dtype"]), value[b"shape"], value[b"data"]
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


def _unpack_number(value: dict[Any, Any]) -> np.generic:
    if set(value) != _NUMBER_KEYS:
        raise BadMessageError("a numpy number has to be a map of __npgeneric__, data and dtype")
    dtype, data = _dtype(value[b"dtype"]), value[b"data"]
    if not isinstance(data, (bool, int, float)):
        raise BadMessageError(f"a numpy number cannot be made of {type(data).__name__}")
    try:
        with np.errstate(over="ignore"):
            return cast("np.generic", dtype.type(data))
    except (OverflowError, ValueError) as error:
        raise BadMessageError(f"a numpy number of dtype {dtype} cannot be {str(data)[:40]} ({error})") from None


def _dtype(name: object) -> np.dtype[Any]:
    if name not in DTYPES:
        raise BadMessageError(f"an array of dtype {str(name)[:40]!r}; expected one of {', '.join(DTYPES)}")
    return np.dtype(cast("str", name))


def _check_depth(value: object, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise BadMessageError(f"a message that is nested more than {_MAX_DEPTH} deep")
        for each in value.values() if isinstance(value, dict) else value:
            _check_depth(each, depth - 1)
