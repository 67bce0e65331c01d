"""The policy ``qwen-vla:SOURCE``: what can be checked of it is checked before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from ...envs.errors import not_importable
from ..api import Policy, PolicyError
from ..options import read_options
from .config import PRESETS
from .options import QwenVlaOptions
from .sources import find_checkpoint


def qwen_vla(source: str, **options: str) -> Policy:
    """The policy that ``source`` names.

    Args:
        source: A preset's name, a checkpoint's folder, a hub's ``owner/name``, or nothing for the package's own checkpoint.
        options: Fields of :class:`QwenVlaOptions`.
    """
    read_options(QwenVlaOptions, options, f"qwen-vla:{source}".removesuffix(":"))
    if source not in PRESETS:
        find_checkpoint(source, weights=False)
    try:
        from .policy import QwenVlaPolicy
    except ImportError as error:
        raise PolicyError(
            f"{not_importable('Qwen-VLA needs', error, 'policy')} "
            "(without a GPU, run before: python -m uv pip install --torch-backend cpu torch)"
        ) from None
    return QwenVlaPolicy(source, **options)
