"""Files that are written in folders to which others may write too, such as a run that was received."""

from __future__ import annotations

import os


def without_links(path: str, flags: int) -> int:
    """Open a file as ``open`` does, which takes this as its ``opener``, unless it is a symbolic link.

    Raises:
        OSError: It is a link (``ELOOP``), or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
