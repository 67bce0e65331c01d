"""Errors that a user can cause and mend: each is one sentence, printed without a traceback."""

from __future__ import annotations


class VlarigError(Exception):
    """A user's mistake or a broken surrounding: one sentence that names the value, what was expected and what to do.

    The command line prints the sentence alone and exits with status 2. Anything else that is raised is a defect of ours.
    """


class BadActionError(VlarigError):
    """A policy's action chunk has the wrong shape or holds a number that no robot can execute."""


class BadMessageError(VlarigError):
    """Bytes on a socket, or in a ledger, that are not one of our messages."""
