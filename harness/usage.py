"""The help of a command that has commands of its own."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping


def usage(command: str, description: str, helps: Mapping[str, str]) -> str:
    """The text of ``COMMAND --help``: what it is for, and a line for each of its commands."""
    width, column = shutil.get_terminal_size().columns, max(map(len, helps)) + 4
    lines = [f"usage: {command} COMMAND ...", ""]
    for line in description.strip().splitlines():
        lines += textwrap.wrap(line, width) if line[:1].isalpha() else [line]
    lines += ["", f"commands (see {command} COMMAND --help):"]
    for name, text in helps.items():
        begin, further = f"  {name}".ljust(column), " " * column
        lines += textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join([*lines, ""])
