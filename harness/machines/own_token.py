"""A secret of this user, required by servers on the loopback interface, which other users of the machine can reach too."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ...envs.access import token_in
from ...envs.errors import VlarigError
from ..home import home


def own_token() -> str:
    """The secret, kept in a file that only its owner can read; made with the first call."""
    path = home() / "token"
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise VlarigError(
            f"no token can be kept in {path} ({error.strerror or error}); give --token-file, or set VLARIG_HOME"
        ) from None
    return token_in(path)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"token-{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{secrets.token_urlsafe(32)}\n")
    with contextlib.suppress(FileExistsError):  # another process was quicker
        os.link(draft, path)
    draft.unlink()
