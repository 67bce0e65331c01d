"""The folder of everything that vlarig keeps beside runs: runtimes, graphics drivers, data files."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import VlarigError


def home() -> Path:
    """The folder of everything that vlarig keeps: ``$VLARIG_HOME``, or ``vlarig`` in the user's cache."""
    if chosen := os.environ.get("VLARIG_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "vlarig"
    except RuntimeError:
        raise VlarigError("there is no home folder (HOME is unset); set HOME, or VLARIG_HOME to a folder for vlarig") from None
