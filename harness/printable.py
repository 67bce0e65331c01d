"""Untrusted text (names, errors of servers and policies), without control characters that a terminal would obey."""

from __future__ import annotations

import logging
import re

#: Control characters but for tab and newline: C0 with escape, DEL, C1; then marks that change the direction of what follows them.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """``text`` without control characters; of an escape sequence its letters are left, which do nothing."""
    return _OBEYED.sub("", text)


class PrintableFormatter(logging.Formatter):
    """Lines of a log that a user may read with ``tail``."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr(form: str) -> None:
    """Print warnings and errors of Python's ``logging`` to standard error, in this form of a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(form))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
