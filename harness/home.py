"""The folder of everything that vlarig keeps beside runs: runtimes, graphics drivers, data files."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of everything that vlarig keeps: ``$VLARIG_HOME``, or ``vlarig`` in the user's cache."""
    if chosen := os.environ.get("VLARIG_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vlarig"
