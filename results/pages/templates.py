"""A site's HTML, from templates beside this file, and its data files. Whatever comes from users is escaped, always.

A data file is the data of a page's scripts. A page that was opened from a file may not read JSON beside it, but may load a script. So a
data file is a script of one call, which registers its data.
"""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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
    templates.filters |= {"duration": _duration, "breakable": _breakable, "time": _time, "thousands": "{:,}".format}
    return templates


def _duration(seconds: float) -> str:
    """Seconds in words: ``1:02:03``, ``12.3 s``."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _breakable(text: str) -> Markup:
    """A long name that may break after ``_`` and ``/``."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_/])", text))


def _time(text: str) -> str:
    """A time in ISO 8601, to the minute where it is in UTC; a dash for none."""
    day, _, clock = text.partition("T")
    return f"{day} {clock[:5]} UTC" if clock.endswith("+00:00") else text or "–"


def data_file(path: str, value: Any) -> bytes:
    """The data file at a path in the site, by which its page requests it. Floats that are not finite become their names."""
    return f"vlarig.arrived({_literal(path)},\n{_literal(value)});\n".encode("ascii")


def _literal(value: Any) -> str:
    """``value`` as JavaScript. Texts come from users: nothing in them ends a script, a line or a string."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
