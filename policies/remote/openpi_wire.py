"""openpi's wire: msgpack with numpy arrays and numpy numbers as maps (:mod:`~vlarig.policies.remote.msgpack_arrays`).

The form is that of Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/msgpack_numpy.py@15a9616.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ...envs.errors import BadMessageError
from .msgpack_arrays import array_as_map, array_in_map, decode, dtype_to_send, encode, read_dtype

_ARRAY_KEYS = (b"__ndarray__", b"data", b"dtype", b"shape")


def pack(value: object) -> bytes:
    """``value`` in openpi's form: plain data, numpy arrays and numpy numbers.

    Raises:
        BadMessageError: It holds a value that is none of these, or an array of a dtype that does not travel.
    """
    return encode(value, _pack_other, type(value).__name__)


def unpack(data: bytes | str) -> Any:
    """The plain data, read-only arrays and numpy numbers in ``data``.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message.
    """
    return decode(data, _unpack_map)


def _pack_other(value: object) -> object:
    if isinstance(value, np.float64):  # a float for openpi's own packer
        return value.item()
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype_to_send(value).str}
    return array_as_map(value, _ARRAY_KEYS)


def _unpack_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return array_in_map(value, _ARRAY_KEYS)
    if b"__npgeneric__" in value:
        return _unpack_number(value)
    return value


def _unpack_number(value: dict[Any, Any]) -> np.generic:
    dtype, data = read_dtype(value.get(b"dtype")), value.get(b"data")
    if not isinstance(data, (bool, int, float)):
        raise BadMessageError(f"a numpy number cannot be made of {type(data).__name__}")
    try:
        with np.errstate(over="ignore"):
            return cast("np.generic", dtype.type(data))
    except (OverflowError, ValueError) as error:
        raise BadMessageError(f"a numpy number of dtype {dtype} cannot be {str(data)[:40]} ({error})") from None
