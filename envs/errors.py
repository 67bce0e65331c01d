"""Errors that a user can cause and correct: each is one sentence, printed without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class VlarigError(Exception):
    """A user's mistake or a broken surrounding: one sentence that names the value, what was expected and what to do.

    The command line prints the sentence alone and exits with status 2. Anything else that is raised is a defect of ours. Any function
    may raise one; docstrings name those that callers handle, and other exceptions.

    Attributes:
        traceback: Where code of the user's raised it, as text for a log; empty where none did, or where the message names the log.
    """

    def __init__(self, *args: object, traceback: str = "") -> None:
        super().__init__(*args)
        self.traceback = traceback


class BadActionError(VlarigError):
    """A policy's action chunk has the wrong shape or holds a number that no robot can execute."""


class UnfitEpisodeError(VlarigError):
    """An episode's own data cannot be played, such as a scene that is missing; others of the run can."""


class BadMessageError(VlarigError):
    """Bytes on a socket, or in a ledger, that are not one of our messages."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to offer for a name that does not exist: the nearest of the ``known`` ones, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(names) or 'none'}"


def not_importable(need: str, error: ImportError, extra: str) -> str:
    """The sentence on packages of an extra that cannot be imported.

    Args:
        need: What needs them, such as ``"films need"``.
        error: What the import raised.
        extra: Name of the extra, or of several, with commas between.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"{need} the package {error.name.partition('.')[0]!r}, which is not installed; run: pip install 'vlarig[{extra}]'"
        )
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{need} packages of which one does not import ({said}); install versions that fit: pip install -U 'vlarig[{extra}]'"


def refuse_unknown_options(what: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Make sure that ``what`` has every option that it got by name."""
    names = list(known)
    for option in options:
        if option not in names:
            raise VlarigError(f"{what} has no option {option!r}; {suggestion(option, names)}")
