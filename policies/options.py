"""Options of a policy, as they come from the command line: words become values, of a model of options or of an ``__init__``."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from ..envs.errors import suggestion
from .api import PolicyError


class Options(BaseModel):
    """Base of a policy's options: unknown names are errors, values do not change, a field's docstring is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


OptionsType = TypeVar("OptionsType", bound=Options)


def read_options(kind: type[OptionsType], given: Mapping[str, Any], policy: str) -> OptionsType:
    """The options by name in ``given``, as on the command line; errors name the ``policy``."""
    for name in given:
        if name not in kind.model_fields:
            raise PolicyError(f"{policy} has no option {name!r}; {suggestion(name, kind.model_fields)}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            raise PolicyError(f"{policy} needs the option {name}; add {name}=...") from None
        meaning = kind.model_fields[name].description if name in kind.model_fields else None
        raise PolicyError(
            f"the option {name}={given.get(name)!r} of {policy} is not possible: {first['msg'].lower()}"
            + (f" ({name}: {meaning})" if meaning else "")
        ) from None


def _size(value: object) -> object:
    if isinstance(value, str):
        height, _, width = value.partition("x")
        return height, width or height
    return value


def _views(value: object) -> object:
    if not isinstance(value, str):
        return value
    named: dict[str, str] = {}
    for word in value.split(","):
        view, colon, name = word.partition(":")
        if not (view and colon and name) or view in named or name in named.values():
            raise ValueError("expected VIEW:NAME,VIEW:NAME..., each view and each name once")
        named[view] = name
    return named


#: One or more pixels.
Pixels = Annotated[int, Field(ge=1, le=4096)]

#: ``224`` or ``180x320``: height and width of an image, in pixels.
ImageSize = Annotated[tuple[Pixels, Pixels], BeforeValidator(_size)]

#: ``ego:image,cam_left_wrist:image2``: view tag to the policy's name for it.
Views = Annotated[dict[str, str], BeforeValidator(_views)]

#: Seconds, more than none.
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
