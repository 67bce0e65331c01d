"""What others wrote, checked: plain data becomes typed values, bytes become arrays, and words become one line."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Union

import msgspec
import numpy as np

from .errors import BadMessageError

if TYPE_CHECKING:
    from pydantic import ValidationError

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
        BadMessageError: The bytes do not fill the shape.
    """
    try:
        array = np.frombuffer(data, dtype=dtype).reshape(shape)
    except (TypeError, ValueError) as error:
        raise BadMessageError(one_line(f"no array of shape {shape} and dtype {dtype}: {error}")) from None
    array.flags.writeable = False
    return array


def one_line(text: str) -> str:
    """``text`` as one printable line of bounded length; parts of it may come from an untrusted peer."""
    return " ".join("".join(each if each.isprintable() else " " for each in text[:_LONGEST_LINE]).split())


def first_problem(error: ValidationError) -> str:
    """What pydantic finds wrong first, as one clause with place and value: ``identity.seed is 'x' and should be a valid integer``."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"])) or "it"
    kind, words = problem["type"], problem["msg"]
    if kind == "missing":
        clause = f"{place} is missing"
    elif kind == "extra_forbidden":
        clause = f"{place} is not known"
    elif kind == "json_invalid":
        clause = f"{place} is not JSON ({words.removeprefix('Invalid JSON: ')})"
    elif kind in ("model_type", "dict_type"):
        clause = f"{place} is {_named(problem['input'])} and should be an object of named values"
    elif words.startswith(("Input should", "String should")):
        expected = words.partition(" ")[2].partition(", unable to")[0]
        clause = f"{place} is {_named(problem['input'])} and {expected}"
    else:
        clause = f"{place}: {words.removeprefix('Value error, ')}"
    return one_line(clause)


def _named(value: object) -> str:
    """A value in a few letters; a list or an object by what it is."""
    return {list: "a list", dict: "an object", type(None): "null"}.get(type(value)) or reprlib.repr(value)


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
