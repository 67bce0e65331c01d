"""Dataclasses from plain data, with every field checked: what arrives on a wire or lies in a file is not to be trusted.

For each type a converter is built once; converting is then little more than a call for each field, since the driver does it for every
chunk.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, cast

from .errors import BadMessageError
from .untrusted import one_line

T = TypeVar("T")

Converter = Callable[[Any], Any]


def structure(kind: type[T], value: object, where: str = "message") -> T:
    """``value``, plain data, as an instance of the dataclass ``kind``.

    Raises:
        BadMessageError: A field is missing, unknown or of another type; the message names its place, which begins with ``where``.
    """
    try:
        return cast("T", _converter(kind)(value))
    except _MisfitError as misfit:
        raise BadMessageError(one_line(f"{where}{''.join(reversed(misfit.place))} {misfit.complaint}")) from None


def structure_named(kinds: Mapping[str, type[Any]], plain: object) -> Any:
    """``[name, fields]``, plain data, as an instance of the dataclass of that name in ``kinds``. Raises like :func:`structure`."""
    if not (isinstance(plain, list) and len(plain) == 2 and isinstance(plain[0], str) and plain[0] in kinds):
        raise BadMessageError(f"expected [name, fields] with a name among {', '.join(kinds)}")
    return structure(kinds[plain[0]], plain[1], plain[0])


class _MisfitError(Exception):
    """Something does not fit; its place is added on the way out."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.place: list[str] = []


def _expected(wanted: str, value: object) -> _MisfitError:
    return _MisfitError(f"is {type(value).__name__}, expected {wanted}")


@functools.cache
def _converter(kind: Any) -> Converter:
    """What turns plain data into a ``kind``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if kind is float:
        return _float
    if origin is Union:
        (inner,) = (_converter(option) for option in arguments if option is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_converter(_converter(arguments[0]))
    if origin is dict:
        return _dict_converter(_converter(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return _dataclass_converter(cast("type", kind))
    return _exact_converter(kind)


def _float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _expected("a number", value)
    try:
        return float(value)
    except OverflowError:
        raise _MisfitError("is a whole number that is too large for a float") from None


def _exact_converter(kind: type) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _expected(kind.__name__, value)
        return value

    return convert


def _tuple_converter(item: Converter) -> Converter:
    def convert(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _expected("a list", value)
        converted: list[Any] = []
        try:
            for each in value:
                converted.append(item(each))  # noqa: PERF401 (its length tells where an error was)
        except _MisfitError as misfit:
            misfit.place.append(f"[{len(converted)}]")
            raise
        return tuple(converted)

    return convert


def _dict_converter(item: Converter) -> Converter:
    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _expected("a map of names", value)
        converted: dict[str, Any] = {}
        key = ""
        try:
            for key, each in value.items():
                converted[key] = item(each)
        except _MisfitError as misfit:
            misfit.place.append(f"[{key!r}]")
            raise
        return converted

    return convert


def _dataclass_converter(kind: type) -> Converter:
    hints = typing.get_type_hints(kind)
    fields = [(field.name, hints[field.name], _converter(hints[field.name])) for field in dataclasses.fields(kind)]
    names = frozenset(name for name, _, _ in fields)
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _expected(f"a map with the fields of {kind.__name__}", value)
        if value.keys() != names:
            unknown = sorted(map(str, value.keys() - names))
            missing = [name for name in required if name not in value]
            if unknown or missing:
                raise _MisfitError(f"is no {kind.__name__}: " + (f"unknown {unknown}" if unknown else f"missing {missing}"))
        built: dict[str, Any] = {}
        name = ""
        try:
            for name, wanted, converter in fields:
                if name in value:
                    given = value[name]
                    built[name] = given if type(given) is wanted else converter(given)
        except _MisfitError as misfit:
            misfit.place.append(f".{name}")
            raise
        try:
            return kind(**built)
        except ValueError as error:  # the dataclass's own checks
            raise _MisfitError(f"is no {kind.__name__}: {error}") from None

    return convert
