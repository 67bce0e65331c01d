"""What code of others raised: the words for it, the line of theirs that it came from, and its traceback as text for a log.

Code of others is a policy, an adapter, or a suite. It may raise any ``BaseException``, and none may end the rig or pass for success.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

#: Longest message and longest traceback that are kept, in characters: the last of them.
_LONGEST_MESSAGE, _LONGEST_TRACEBACK = 500, 20_000


def deed(error: BaseException) -> str:
    """What the code did, as a verb: ``raised KeyError``, or ``tried to exit``."""
    return "tried to exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"


def message_of(error: BaseException) -> str:
    """The exception's own words in one line, and the place of :func:`place_of`."""
    text = f"status {error.code or 0}" if isinstance(error, SystemExit) else str(error)
    text = " ".join(text.split())[:_LONGEST_MESSAGE]
    return " ".join(filter(None, [text, place_of(error)]))


def describe(error: BaseException) -> str:
    """An exception in one line: its type, its words, its place."""
    return f"{type(error).__name__}: {message_of(error)}"


def place_of(error: BaseException) -> str:
    """Where the user's own code raised it, as ``(FILE:LINE, in FUNCTION)``; empty where there is none of the user's.

    The user's own code is the innermost that is neither the rig's nor Python's nor installed; without such, the outermost installed.
    """
    own, installed = [], []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if frame.f_globals.get("__name__", "").startswith("vlarig.") or file.startswith("<frozen "):
            continue
        where = f"({file}:{line}" + (")" if function == "<module>" else f", in {function})")
        if {"site-packages", "dist-packages"} & set(Path(file).parts):
            installed.append(where)
        elif not file.startswith(sysconfig.get_path("stdlib")):
            own.append(where)
    if isinstance(error, SyntaxError) and error.filename:
        own.append(f"({error.filename}:{error.lineno})")
    return own[-1] if own else "".join(installed[:1])


def traceback_of(error: BaseException) -> str:
    """The exception's traceback as Python prints it."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-_LONGEST_TRACEBACK:]
