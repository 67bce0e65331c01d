"""Untrusted messages of msgpack, with arrays as maps: what the wires of openpi and of vla-eval have in common.

The originals' readers build whatever dtype and shape a message names. Here dtypes, shapes, sizes, counts and depths are checked, and
all that can go wrong is one :class:`~vlarig.envs.errors.BadMessageError` of one line.

A few bytes can allocate much: one byte is a list, which takes sixty of memory; five announce a list of millions, for which msgpack
makes
room before it reads it. So a message's values are counted while they are built. A list or map is counted when it ends, and msgpack lets
1024 be open at a time and makes room for the items of each at once: up to 1024 times :data:`MAX_ITEMS` values may be there before
:data:`MAX_VALUES` and :data:`MAX_DEPTH` are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, cast

import msgpack
import numpy as np

from ..envs.errors import BadMessageError
from ..envs.untrusted import MAX_DIMENSIONS, build_array, one_line

#: Largest message in bytes, either way. Four uncompressed views of 480x640 pixels are 3.7 MB.
MAX_MESSAGE_BYTES = 16 * 2**20

#: Most items of all lists and entries of all maps, and the lists and maps themselves; an array is four entries.
MAX_VALUES = 20_000

#: Most items of one list.
MAX_ITEMS = 1024

#: Most entries of one map.
MAX_ENTRIES = 256

#: Longest text, in bytes.
MAX_TEXT = 2**16

#: Most lists and maps within each other.
MAX_DEPTH = 8

#: Dtypes that travel: truth values and numbers of one to eight bytes, little-endian.
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")


def decode(data: bytes | str, object_hook: Callable[[dict[Any, Any]], Any]) -> Any:
    """The value in ``data``.

    Args:
        data: What arrived.
        object_hook: Converts a map to the value that it encodes, the innermost first; it returns any other map unchanged.

    Raises:
        BadMessageError: ``data`` is text, too large, or not one well-formed message; or ``object_hook`` raised it.
    """
    if isinstance(data, str):
        raise BadMessageError("a message of text; expected msgpack in a binary frame")
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    left = MAX_VALUES

    def take_list(values: list[Any]) -> list[Any]:
        nonlocal left
        left -= len(values) + 1
        if left < 0:
            raise BadMessageError(f"a message of more than {MAX_VALUES} values; send numbers as arrays")
        return values

    def take_map(entries: list[Any]) -> Any:
        built = dict(take_list(entries))
        if len(built) != len(entries):
            raise BadMessageError("a map that has a key twice")
        return object_hook(built)

    try:
        value = msgpack.unpackb(
            data,
            list_hook=take_list,
            object_pairs_hook=take_map,
            ext_hook=_refuse_extension,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ENTRIES,
            max_str_len=MAX_TEXT,
        )
    except BadMessageError:
        raise
    except Exception as error:  # msgpack raises ValueErrors of many kinds, and StackError on deep nesting
        raise BadMessageError(one_line(f"not a msgpack message ({type(error).__name__}: {error})")) from None
    _check_depth([value], MAX_DEPTH)
    return value


def encode(value: object, default: Callable[[Any], Any], what: str) -> bytes:
    """``value`` as msgpack; ``default`` makes plain data of what is none, or raises ``TypeError``.

    Raises:
        BadMessageError: It holds something that does not travel; ``what`` names the value.
    """
    try:
        return cast("bytes", msgpack.packb(value, default=default))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError(f"cannot send {what}: {error}") from None


def array_as_map(array: object, keys: Sequence[str | bytes]) -> dict[str | bytes, Any]:
    """An array as a map with these keys, for its mark, its bytes, its dtype and its shape.

    Raises:
        TypeError: It is no array, or of a dtype that does not travel.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"values of type {type(array).__name__} do not travel")
    dtype = dtype_to_send(array)
    return dict(zip(keys, (True, array.astype(dtype, copy=False).tobytes(), dtype.str, array.shape), strict=True))


def array_in_map(value: dict[Any, Any], keys: Sequence[str | bytes]) -> np.ndarray:
    """The array that a map with the mark ``keys[0]`` describes, read-only; ``keys`` as for :func:`array_as_map`.

    Raises:
        BadMessageError: It has other keys, is of a dtype that does not travel, its shape is none, or the bytes do not fill it.
    """
    if set(value) != set(keys):
        raise BadMessageError("an array has to be a map of __ndarray__, data, dtype and shape")
    data, dtype, shape = value[keys[1]], read_dtype(value[keys[2]]), value[keys[3]]
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


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise BadMessageError(f"not a msgpack message of plain data: it holds extension {code}, of {len(data)} bytes")


def _check_depth(values: Iterable[Any], left: int) -> None:
    """Look for too many lists and maps within each other, and for the one kind of value that msgpack makes by itself."""
    if left < 0:
        raise BadMessageError(f"a message that is nested more than {MAX_DEPTH} deep")
    for each in values:
        if type(each) is dict:
            _check_depth(each.values(), left - 1)
        elif type(each) is list:
            _check_depth(each, left - 1)
        elif type(each) is msgpack.Timestamp:
            raise BadMessageError("not a msgpack message of plain data: it holds a timestamp")
