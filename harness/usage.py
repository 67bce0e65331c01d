"""The help of a command that has commands of its own."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

from ..envs.errors import VlarigError, suggestion


def usage(command: str, description: str, helps: Mapping[str, str]) -> str:
    """The text of ``COMMAND --help``: what it is for, and a line for each of its commands."""
    width, column = shutil.get_terminal_size().columns, max(map(len, helps)) + 4
    lines = [f"usage: {command} COMMAND ...", ""]
    for line in description.strip().splitlines():
        lines += textwrap.wrap(line, width, break_on_hyphens=False) if line[:1].isalpha() else [line]
    lines += ["", f"commands (see {command} COMMAND --help):"]
    for name, text in helps.items():
        begin, further = f"  {name}".ljust(column), " " * column
        lines += textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join([*lines, ""])


def choose(words: Sequence[str], command: str, description: str, helps: Mapping[str, str]) -> str | None:
    """The command of ``command`` that the first word names; ``None`` where its help was requested, and printed."""
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(usage(command, description, helps))
        return None
    if name not in helps:
        raise VlarigError(f"unknown subcommand {name!r} of {command}; {suggestion(name, helps)}")
    return name
