"""Where checkpoints are: in a folder, on the hub, or in this package. Nothing here needs torch."""

from __future__ import annotations

import re
from pathlib import Path

from ...envs.errors import suggestion
from ..api import PolicyError
from .presets import PRESETS

#: The checkpoint that this package brings along, which an empty source names; its made.txt says how it was made.
SHIPPED = Path(__file__).parent / "shipped"

#: An id of the hub: ``owner/name``.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find_checkpoint(source: str, weights: bool = True) -> Path:
    """The folder of a checkpoint, downloaded from the hub where ``source`` is an id of it.

    Args:
        source: A folder, a hub's ``owner/name``, or nothing for :data:`SHIPPED`.
        weights: Whether to download the weights too; :func:`~.checkpoint.describe_checkpoint` needs none.
    """
    folder = Path(source) if source else SHIPPED
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source) or folder.is_absolute():
        raise PolicyError(
            f"no checkpoint {source!r}: {suggestion(source, PRESETS)} (presets with random weights), or give a checkpoint's folder or "
            "a hub's owner/name"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=["*.json", *(["*.safetensors"] if weights else [])]))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"there is no folder {source!r}, and the hub has not given it ({first}); check the name") from None
