"""What pydantic says of data that others wrote, in our words."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from .untrusted import one_line

if TYPE_CHECKING:
    from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """What is wrong first, as one clause that names the place and the value: ``identity.seed is 'x' and should be a valid integer``."""
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
