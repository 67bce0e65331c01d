"""The files in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def films_of(run_dir: Path, *images: str) -> frozenset[str]:
    """File names of a run's films, and with ``.jpg`` of their posters."""
    try:
        files = list((run_dir / "videos").iterdir())
    except OSError:
        return frozenset()
    return frozenset(file.name for file in files if file.suffix in (".mp4", *images) and not file.name.startswith("."))


def run_name(run_dir: Path) -> str:
    """The name of a run, which is its folder's, as :func:`utf8_text` gives it."""
    return utf8_text(run_dir.resolve().name)


def utf8_text(text: str) -> str:
    r"""``text``, in which a path may be named, with bytes that are no UTF-8 as ``\xff``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
