"""The files in a run's folder. The folder may have been received from anyone: a link that leads out of it is not followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..envs.errors import VlarigError


def own_path(run_dir: Path, *names: str) -> Path:
    """The path of a run's file or folder, which need not exist.

    Args:
        run_dir: Folder of the run; it may itself be a link.
        names: Names from there on.
    """
    path = run_dir.joinpath(*names)
    home, target = Path(os.path.realpath(run_dir)), Path(os.path.realpath(path))
    if not target.is_relative_to(home):
        raise VlarigError(
            f"{path} is a link that leads out of the run's folder, to {target}, and is not followed; put the file itself there, "
            "or remove the link"
        )
    try:
        kind = target.stat().st_mode
    except OSError:
        return path  # what reads it says why it cannot be read
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise VlarigError(f"{path} is neither a file nor a folder; remove it, or restore the run from a copy")
    return path


@contextmanager
def appearing(path: Path) -> Generator[Path]:
    """A draft beside ``path`` to write to: at the end it replaces ``path``; after an error it is deleted."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_links(run_dir: Path) -> None:
    """Make sure that files written into a run's folder stay there."""
    for folder, folders, files in os.walk(run_dir):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                own_path(run_dir, *path.relative_to(run_dir).parts)


def films_of(run_dir: Path, *pictures: str) -> frozenset[str]:
    """File names of a run's films, and with ``.jpg`` of their posters."""
    try:
        entries = list(os.scandir(own_path(run_dir, "videos")))
    except OSError:
        return frozenset()
    files = [entry for entry in entries if entry.name.endswith((".mp4", *pictures)) and not entry.name.startswith(".")]
    for file in files:
        if not file.is_file(follow_symlinks=False):
            own_path(run_dir, "videos", file.name)
    return frozenset(file.name for file in files if file.is_file())


def run_name(run_dir: Path) -> str:
    """The name of a run, which is its folder's, as :func:`utf8_text` gives it."""
    return utf8_text(run_dir.resolve().name)


def utf8_text(text: str) -> str:
    r"""``text``, in which a path may be named, with bytes that are no UTF-8 as ``\xff``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
