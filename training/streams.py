"""Where a training's samples come from: a mixture's file, or a callable of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import TrainingError
from .data.mixture_file import read_mixture
from .samples import Stream, imported


def find_stream(source: str, options: Mapping[str, Any]) -> Stream:
    """The stream that ``module:NAME`` gives for these options, or ``mixture:FILE``; the working directory is searched too."""
    if source.startswith("mixture:"):
        return read_mixture(source.partition(":")[2])
    _, colon, name = source.partition(":")
    if not colon or not name:
        raise TrainingError(
            f"data.source is {source!r}; expected mixture:FILE, or module:NAME of a callable that gives samples"
        )
    try:
        make = imported(source)
    except (ImportError, AttributeError) as error:
        raise TrainingError(f"data.source {source!r} cannot be imported ({error}); check the module and the name") from None
    try:
        return make(**options)
    except TypeError as error:
        raise TrainingError(f"data.source {source!r} does not take data.options ({error})") from None
