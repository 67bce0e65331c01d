"""Plain data out of files as typed values."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def typed(data: Any, kind: type[T]) -> T:
    """``data`` as a ``kind``; keys that it has no field for are ignored.

    Raises:
        ValueError: It is none: a clause with the place in it and the value there.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        place = re.search(r" - at `\$(.+)`$", str(error))
        if place is None:
            raise
        value = data
        for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", place[1]):
            value = value[name or int(number)]
        raise ValueError(f"{error}, where {value!r:.80} is") from None
