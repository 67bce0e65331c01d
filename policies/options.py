"""Options of a policy, as they come from the command line: words, checked against a model of what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

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
