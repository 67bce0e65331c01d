"""Plain data out of a numpy file that others wrote as a pickle, without carrying out what the pickle says.

``np.save`` of a dictionary is a pickle, which can run any program when it is loaded. Here its operations are listed, and those that
make dictionaries, lists, tuples, numbers, text and arrays of numbers are followed; any other is refused. What the operations mean is
Python's documentation of ``pickletools``; how numpy writes arrays, scalars and dtypes are the reductions of ``numpy.ndarray``.
"""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import Any, cast

import numpy as np

from .errors import DataError

#: Numpy's own, under the module names of numpy 1 and 2, and how Python 2 wrote bytes.
_KNOWN = {
    **{f"numpy.{core}.multiarray {name}": name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}

#: Operations that push their argument.
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
#: Operations that take so many items from the stack, or all that lie there since the last mark.
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "TUPLE": None, "APPENDS": None, "SETITEMS": None}
_MARK = object()


class _Name(str):
    """A function or class that the pickle names."""


class _Array:
    """An array, or a dtype, whose content comes with the operation after it."""

    def __init__(self, dtype: str | None = None) -> None:
        self.dtype = dtype
        self.value: Any = None


def read_object(path: Path) -> Any:
    """The one object of a file by ``np.save(path, object)``: dictionaries, lists, tuples, text, numbers, arrays of numbers."""
    try:
        raw = path.read_bytes()
        file = io.BytesIO(raw)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if shape != () or dtype.kind != "O":
            raise ValueError(f"it is an array {list(shape)} of {dtype}, expected one object")
        result = _follow(raw[file.tell() :])
    except OSError as error:
        raise DataError(f"{path} does not read ({error.strerror}); check that it is there") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} holds no plain data of numpy ({error}); is it whole?") from None
    return result


def _follow(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for operation, given, _ in pickletools.genops(data):
        name, argument = operation.name, cast("Any", given)
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return _plain(stack.pop())[()]
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TAKEN:
            items = _taken(stack, _TAKEN[name])
            if name.startswith("TUPLE"):
                stack.append(tuple(items))
            else:
                _extend(stack[-1], items)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            full = argument if name == "GLOBAL" else " ".join(_taken(stack, 2))
            if full not in _KNOWN:
                raise ValueError(f"it names {full!r}, which is no data")
            stack.append(_Name(_KNOWN[full]))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _made(stack[-1], arguments)
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise ValueError(f"it has the operation {name}, which makes no plain data")
    raise ValueError("it has no end")


def _taken(stack: list[Any], count: int | None) -> list[Any]:
    """The last ``count`` items, or those since the last mark, and no longer there."""
    begin = len(stack) - count if count else max(place for place, item in enumerate(stack) if item is _MARK) + 1
    items = stack[begin:]
    del stack[begin if count else begin - 1 :]
    return items


def _extend(target: Any, items: list[Any]) -> None:
    items = [_plain(item) for item in items]
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))
    else:
        raise ValueError(f"it puts items into a {type(target).__name__}")


def _made(function: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(function, _Name):
        raise ValueError(f"it calls a {type(function).__name__}")
    if function == "dtype":
        return _Array(arguments[0])
    if function == "_reconstruct":
        return _Array()
    if function == "scalar":
        return np.frombuffer(arguments[1], _dtype(arguments[0]))[0]
    if function == "encode" and arguments[1] in ("latin1", "latin-1"):
        return arguments[0].encode("latin1")
    raise ValueError(f"it calls {function}")


def _fill(target: Any, state: tuple[Any, ...]) -> None:
    """The rest of a dtype (its byte order) or of an array (shape, dtype, order, bytes; a list where they are objects)."""
    if not isinstance(target, _Array):
        raise ValueError(f"it fills a {type(target).__name__}")
    if target.dtype is not None:
        if target.dtype != "O8":
            target.dtype = (state[1] if state[1] in "<>" else "") + target.dtype
        return
    _, shape, dtype, fortran, content = state
    if isinstance(content, list):
        target.value = np.empty(len(content), object)
        target.value[:] = content
        target.value = target.value.reshape(shape)
    else:
        array = np.frombuffer(content, _dtype(dtype))
        target.value = array.reshape(shape, order="F" if fortran else "C")


def _dtype(found: Any) -> np.dtype[Any]:
    dtype = np.dtype(found.dtype)
    if dtype.kind not in "biufSU":
        raise ValueError(f"it has an array of {dtype}")
    return dtype


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
