"""What code of others raised: the message, the line of theirs that raised it, and its traceback as text for a log.

Code of others is a policy, an adapter, or a suite. It may raise any ``BaseException``, and none may end the rig or pass for success.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

#: Longest message and longest traceback that are kept, in characters: the last of them.
_LONGEST_MESSAGE, _LONGEST_TRACEBACK = 500, 20_000


def outcome_of(error: BaseException) -> str:
    """The outcome as a verb: ``raised KeyError``, or ``tried to exit``."""
    return "tried to exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"


def message_of(error: BaseException) -> str:
    """The exception's message in one line, and the place of :func:`place_of`."""
    text = f"status {error.code or 0}" if isinstance(error, SystemExit) else str(error)
    text = " ".join(text.split())[:_LONGEST_MESSAGE]
    return " ".join(filter(None, [text, place_of(error)]))


def describe(error: BaseException) -> str:
    """An exception in one line: its type, its message, its place."""
    return f"{type(error).__name__}: {message_of(error)}"


def place_of(error: BaseException) -> str:
    """Where the user's own code raised it, as ``(FILE:LINE, in FUNCTION)``; empty where there is none of the user's.

    The user's own code is the innermost that is neither the rig's nor Python's nor installed; without such, the innermost of the
    outermost installed package.
    """
    own: list[str] = []
    installed: list[tuple[str, str]] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if frame.f_globals.get("__name__", "").startswith("vlarig.") or file.startswith("<frozen "):
            continue
        where = f"({file}:{line}" + (")" if function == "<module>" else f", in {function})")
        if {"site-packages", "dist-packages"} & set(Path(file).parts):
            installed.append((str(frame.f_globals.get("__name__")).partition(".")[0], where))
        elif not file.startswith(sysconfig.get_path("stdlib")):
            own.append(where)
    if isinstance(error, SyntaxError) and error.filename:
        own.append(f"({error.filename}:{error.lineno})")
    return own[-1] if own else "".join([where for package, where in installed if package == installed[0][0]][-1:])


def traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-_LONGEST_TRACEBACK:]
