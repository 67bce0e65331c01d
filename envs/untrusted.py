"""What others wrote, checked: plain data becomes typed values, bytes become arrays, and words become one line.

All that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError` of one line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, Union

import msgspec
import numpy as np

from .errors import BadMessageError

#: Most dimensions of an array.
MAX_DIMENSIONS = 8

#: Largest array in memory, in bytes, where sizes of 0 count as 1: no shape is too large to be computed with.
_MAX_EXTENT = 2**31

_LONGEST_LINE = 300

T = TypeVar("T")


def convert(value: object, kind: type[T], where: str) -> T:
    """``value``, plain data, as a ``kind``.

    Raises:
        BadMessageError: A field is missing, unknown or of another type; the sentence begins with ``where`` and names the place in it.
    """
    try:
        converted = msgspec.convert(value, type=kind)
        _refuse_unknown(value, msgspec.to_builtins(converted), "$")
    except (ValueError, OverflowError, RecursionError) as error:
        raise BadMessageError(one_line(f"{where}: {error}")) from None
    return converted


def build_array(dtype: np.dtype[Any], shape: Sequence[int], data: Union[bytes, memoryview]) -> np.ndarray:
    """The array of that dtype, shape and content, read-only; it refers to ``data``.

    Raises:
        BadMessageError: The bytes do not fill the shape, or are no values of the dtype.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise BadMessageError(f"an array of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise BadMessageError(f"an array of shape {list(shape)} and dtype {dtype} cannot have {len(data)} bytes")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MAX_EXTENT:
        raise BadMessageError(f"an array of shape {list(shape)}, which is too large")
    if dtype.kind == "b" and bytes(data).translate(None, b"\x00\x01"):
        raise BadMessageError("an array of truth values whose bytes are not all 0 or 1")
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    array.flags.writeable = False
    return array


def one_line(text: str) -> str:
    """``text`` as one printable line of bounded length; parts of it may come from an untrusted peer."""
    return " ".join("".join(each if each.isprintable() else " " for each in text[:_LONGEST_LINE]).split())


def _refuse_unknown(given: Any, known: Any, place: str) -> None:
    """Look for keys of ``given`` that its converted form lacks: msgspec ignores those that a dataclass has no field for."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in known:
                raise ValueError(f"Object contains unknown field `{key}` - at `{place}`")
            _refuse_unknown(value, known[key], f"{place}.{key}")
    elif isinstance(given, (list, tuple)):
        for number, (one, other) in enumerate(zip(given, known)):
            _refuse_unknown(one, other, f"{place}[{number}]")
