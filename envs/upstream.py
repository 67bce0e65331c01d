"""Upstream's code in an adapter: imported quietly, with its data files at a given place, and changed by named patches."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from .errors import VlarigError


def unchanged(upstream: type) -> type:
    """Upstream's class as it is."""
    return upstream


@dataclass(frozen=True)
class Patch:
    """A change of upstream's behaviour. An adapter lists its own in ``Env.patches``.

    Attributes:
        name: What it gives, in a few words.
        why: What upstream does without it, with its file and commit.
        needed: Whether upstream, as it is installed, still does that; called in a process of its own, in which nothing is patched.
        importing: Makes the change around upstream's first import.
        changing: Makes a subclass of upstream's class with the change.
    """

    name: str
    why: str
    needed: Callable[[], bool]
    importing: Callable[[], AbstractContextManager[Any]] = nullcontext
    changing: Callable[[type], type] = unchanged


def import_upstream(module: str, patches: Sequence[Patch] = (), loggers: Sequence[str] = ()) -> ModuleType:
    """Upstream's module; its first import in a process is quiet (:func:`quiet`), and patched."""
    if module not in sys.modules:
        with ExitStack() as stack:
            stack.enter_context(quiet(*loggers))
            for patch in patches:
                stack.enter_context(patch.importing())
            importlib.import_module(module)
    return sys.modules[module]


def patched(upstream: type, patches: Sequence[Patch]) -> type:
    """A subclass of upstream's class with the changes of the patches, under its name."""
    for patch in patches:
        upstream = patch.changing(upstream)
    return upstream


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Within, what is printed goes to standard error, warnings are ignored, and these loggers write nothing."""
    muted = [logging.getLogger(name) for name in loggers]
    for logger in muted:
        logger.addFilter(_nothing)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in muted:
            logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def assets_variable(bundle: str) -> str:
    """The environment variable in which a worker finds the folder of a bundle of data files."""
    return f"VLARIG_ASSETS_{bundle.upper()}"


def assets_folder(bundle: str, *parts: str) -> Path:
    """The folder of a bundle of data files, in which there are these folders."""
    variable = assets_variable(bundle)
    place = os.environ.get(variable, "")
    if not place or not all(Path(place, part).is_dir() for part in parts):
        expected = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
        raise VlarigError(f"${variable} is {place!r}, expected a folder with {expected}; run: vlarig assets list")
    return Path(place)
