"""The pages' HTML, from templates beside this file. Whatever comes from users is escaped, always."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from ...envs.errors import VlarigError, not_importable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise VlarigError(not_importable("pages need", error, "results")) from error
    templates = Environment(
        autoescape=True,
        loader=PackageLoader("vlarig.results.pages", "html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"duration": _duration, "breakable": _breakable, "moment": _moment, "thousands": "{:,}".format}
    return templates


def _duration(seconds: float) -> str:
    """Seconds in words: ``1:02:03``, ``12.3 s``."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _breakable(text: str) -> Markup:
    """A long name that may break after ``_`` and ``/``."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_/])", text))


def _moment(text: str) -> str:
    """A time in ISO 8601, to the minute where it is in UTC; a dash for none."""
    day, _, clock = text.partition("T")
    return f"{day} {clock[:5]} UTC" if clock.endswith("+00:00") else text or "–"
