"""Folders of assets appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..locking import unwritable


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of ``folder`` when the context ends well, and vanishes otherwise.

    The next process deletes the scratch folder of a killed one. Use it under a lock.
    """
    scratch = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        scratch.replace(folder)
    except OSError as error:
        raise unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
