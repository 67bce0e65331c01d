"""The policy ``qwen-vla:SOURCE``: what can be checked of it is checked before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...envs.errors import not_importable
from ..api import PolicyError
from ..options import read_options
from .config import PRESETS
from .options import QwenVlaOptions
from .sources import find_checkpoint

if TYPE_CHECKING:
    from .policy import QwenVlaPolicy


def qwen_vla(source: str, **options: str) -> QwenVlaPolicy:
    """The policy that ``source`` names.

    Args:
        source: A preset's name, a checkpoint's folder, a hub's ``owner/name``, or nothing for the package's own checkpoint.
        options: Fields of :class:`QwenVlaOptions`.
    """
    read_options(QwenVlaOptions, options, f"qwen-vla:{source}".removesuffix(":"))
    if source not in PRESETS:
        find_checkpoint(source, weights=False)
    return policy_class()(source, **options)


def policy_class() -> type[QwenVlaPolicy]:
    """The policy's class, which needs the extra ``policy``; a sentence says so where that is not installed."""
    try:
        from .policy import QwenVlaPolicy
    except ImportError as error:
        raise PolicyError(
            f"{not_importable('Qwen-VLA needs', error, 'policy')} "
            "(without a GPU, run before: python -m uv pip install --torch-backend cpu torch)"
        ) from None
    return QwenVlaPolicy
