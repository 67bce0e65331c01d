"""Bytes from anyone, read within limits: what the wire to simulators and the wires to policies have in common.

A few bytes can ask for much: one byte is a list, which takes sixty of memory; five announce a list of millions, for which msgpack makes
room before it reads it. So a message's values are counted while they are built, and all that can go wrong is one
:class:`~vlarig.envs.errors.BadMessageError` of one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Optional, Union

import msgpack
import numpy as np

from .errors import BadMessageError

#: Most dimensions of an array.
MAX_DIMENSIONS = 8

#: Largest array in memory, in bytes, where sizes of 0 count as 1: no shape is too large to be computed with.
_MAX_EXTENT = 2**31

_LONGEST_LINE = 300


@dataclass(frozen=True)
class Limits:
    """What one message may hold.

    Attributes:
        bytes: Its length.
        values: Items of all its lists and entries of all its maps, and the lists, maps and extensions themselves.
        items: Items of one list.
        entries: Entries of one map.
        text: Length of one text, in bytes.
        depth: Lists and maps within each other.

    A list or map is counted when it ends, and msgpack lets 1024 be open at a time and makes room for the items of each at once. So
    up to 1024 times ``items`` or ``entries`` values may be there before ``values`` and ``depth`` are looked at.
    """

    bytes: int
    values: int
    items: int
    entries: int
    text: int
    depth: int


def refuse_extension(code: int, data: bytes) -> NoReturn:
    """For a message that may hold no extension of msgpack."""
    raise BadMessageError(f"not a msgpack message of plain data: it holds extension {code}, of {len(data)} bytes")


def read_msgpack(
    data: Union[bytes, memoryview],
    limits: Limits,
    read_extension: Callable[[int, bytes], Any] = refuse_extension,
    read_map: Optional[Callable[[dict[Any, Any]], Any]] = None,
) -> Any:
    """The value in ``data``.

    Args:
        data: What arrived.
        limits: What it may hold.
        read_extension: Makes a value of an extension's code and bytes.
        read_map: Makes of a map what it stands for, the innermost first; a map that stands for nothing else it returns.

    Raises:
        BadMessageError: ``data`` is not one well-formed message within the limits; or one of the functions raised it.
    """
    if len(data) > limits.bytes:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {limits.bytes} are allowed")
    left = limits.values

    def take_list(values: list[Any]) -> list[Any]:
        nonlocal left
        left -= len(values) + 1
        if left < 0:
            raise BadMessageError(f"a message of more than {limits.values} values; send numbers as arrays")
        return values

    def take_map(entries: list[Any]) -> Any:
        built = dict(take_list(entries))
        if len(built) != len(entries):
            raise BadMessageError("a map that has a key twice")
        return built if read_map is None else read_map(built)

    def take_extension(code: int, content: bytes) -> Any:
        take_list([])
        return read_extension(code, content)

    try:
        value = msgpack.unpackb(
            data,
            list_hook=take_list,
            object_pairs_hook=take_map,
            ext_hook=take_extension,
            raw=False,
            strict_map_key=True,
            max_array_len=limits.items,
            max_map_len=limits.entries,
            max_str_len=limits.text,
        )
    except BadMessageError:
        raise
    except Exception as error:  # msgpack raises ValueErrors of many kinds, and StackError on deep nesting
        raise BadMessageError(one_line(f"not a msgpack message ({type(error).__name__}: {error})")) from None
    _check_depth([value], limits.depth, limits)
    return value


def build_array(dtype: np.dtype[Any], shape: Sequence[int], data: bytes) -> np.ndarray:
    """The array of that dtype, shape and content, read-only.

    Raises:
        BadMessageError: The bytes do not fill the shape, or are no values of the dtype.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise BadMessageError(f"an array of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise BadMessageError(f"an array of shape {list(shape)} and dtype {dtype} cannot have {len(data)} bytes")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MAX_EXTENT:
        raise BadMessageError(f"an array of shape {list(shape)}, which is too large")
    if dtype.kind == "b" and data.translate(None, b"\x00\x01"):
        raise BadMessageError("an array of truth values whose bytes are not all 0 or 1")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def one_line(text: str) -> str:
    """``text`` as one printable line of bounded length; parts of it may come from anyone."""
    return " ".join("".join(each if each.isprintable() else " " for each in text[:_LONGEST_LINE]).split())


def _check_depth(values: Iterable[Any], left: int, limits: Limits) -> None:
    """Look for too many lists and maps within each other, and for the one kind of value that msgpack makes by itself."""
    if left < 0:
        raise BadMessageError(f"a message that is nested more than {limits.depth} deep")
    for each in values:
        if type(each) is dict:
            _check_depth(each.values(), left - 1, limits)
        elif type(each) is list:
            _check_depth(each, left - 1, limits)
        elif type(each) is msgpack.Timestamp:
            raise BadMessageError("not a msgpack message of plain data: it holds a timestamp")
