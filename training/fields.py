"""The fields of a configuration, for ``vlarig train STAGE --help``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from .config import Settings


@dataclass(frozen=True)
class NamedField:
    """A value that ``--override`` takes.

    Attributes:
        name: Its path: ``optimizer.expert.lr``.
        default: As JSON, or ``(none)`` or ``(required)``.
        help: What it is.
    """

    name: str
    default: str
    help: str


def named_fields(kind: type[Settings], own: Mapping[str, Any], prefix: str = "") -> Iterator[NamedField]:
    """Each field of a tree, branch after branch.

    Args:
        kind: The tree.
        own: Defaults of the stage, in place of the fields' own.
        prefix: Path of the tree, with a dot at its end.
    """
    for name, field in kind.model_fields.items():
        default = own.get(name, field.default)
        kinds = [field.annotation, *get_args(field.annotation)]
        branch = next((each for each in kinds if isinstance(each, type) and issubclass(each, Settings)), None)
        if branch is not None:
            inner = field.default.model_dump() if isinstance(field.default, Settings) else {}
            yield from named_fields(branch, inner | dict(own.get(name) or {}), f"{prefix}{name}.")
        else:
            required = default is PydanticUndefined
            shown = "(required)" if required else "(none)" if default is None else json.dumps(default, default=str)
            yield NamedField(f"{prefix}{name}", shown, _plain(field.description or ""))


def _plain(text: str) -> str:
    """A docstring's words without its markup, on one line."""
    return " ".join(re.sub(r"(?::\w+:)?`+(?:~?[\w.]*\.)?([^`]+)`+", r"\1", text).split())
