"""Data files: the data of a page's scripts, as scripts that register themselves.

A page that was opened from a file may not read JSON beside it, but may load a script. So a data file is a script of one call.
"""

from __future__ import annotations

import json
import math
from typing import Any


def data_file(path: str, value: Any) -> bytes:
    """The data file at ``path``.

    Args:
        path: Its path in the site, by which its page requests it.
        value: Plain data. Floats that are not finite become their names.
    """
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
