"""The tables of the Qwen-VLA paper that rows of ours can be added to."""

from __future__ import annotations

from pathlib import Path

from ..envs.plugins import Plugin

PLUGIN = Plugin(
    layouts=tuple(
        Path(__file__).parent / "published" / f"{name}.toml" for name in ("table4", "table7", "table8", "table9", "table11")
    ),
)
