"""Options of a policy as values: what the user typed is read by the annotations of the policy's ``__init__``."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from .api import PolicyError


def option_values(policy: str, make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every text as what its parameter of ``make`` is annotated with; without an annotation it stays text.

    ``4`` is an ``int``, ``0.5`` a ``float``, ``true`` or ``no`` a ``bool``, ``none`` is ``None``, ``1,2,3`` a tuple or a list, and what
    is written as JSON may be any of these and a map. Of a union, text is the last that is tried.

    Args:
        policy: The policy's name, for the sentence.
        make: The policy's class or the function that makes it.
        options: Name to what was typed; what is no text is left as it is.
    """
    return {
        name: _read(policy, name, value, _annotation(make, name)) if isinstance(value, str) else value
        for name, value in options.items()
    }


def _annotation(make: Callable[..., Any], name: str) -> Any:
    """What a parameter is annotated with; ``Any`` where that is nothing, or a name that cannot be found."""
    parameter = inspect.signature(make).parameters.get(name)
    if parameter is None or parameter.annotation is parameter.empty:
        return Any
    names = vars(sys.modules.get(make.__module__, typing))
    holder = type("Holder", (), {"__annotations__": {name: parameter.annotation}})
    try:
        return typing.get_type_hints(holder, globalns=dict(names), include_extras=True)[name]
    except Exception:  # a name that only a type checker imports
        return Any


def _read(policy: str, name: str, text: str, kind: Any) -> Any:
    if kind is Any:
        return text
    try:
        reader: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticUserError:  # a type that no text gives
        return text
    json = "null" if text.lower() == "none" else text
    problem = ""
    readings: list[Callable[[], Any]] = [
        lambda: reader.validate_strings(text),
        lambda: reader.validate_json(json),
        lambda: reader.validate_python(text.split(",")),
    ]
    for read in readings:
        try:
            return read()
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"].lower()
    expected = inspect.formatannotation(kind)
    raise PolicyError(f"the option {name}={text!r} of the policy {policy!r} does not fit; expected {expected} ({problem})")
