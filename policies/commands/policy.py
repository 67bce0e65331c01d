"""``vlarig policy``: look at the embedded policy, or write one to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..api import PolicyError

DESCRIPTION = """Look at Qwen-VLA, a checkpoint or a preset, or write a preset to a checkpoint's folder.

  vlarig policy inspect --preset 4b          parameters by part, as the paper prints them
  vlarig policy inspect FOLDER               a checkpoint: its sizes, robots, statistics and prompts
  vlarig policy create --preset small --out FOLDER
"""


def main(arguments: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="vlarig policy", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser("inspect", help="parameter counts by part, robots, statistics, prompts")
    inspect.add_argument("checkpoint", nargs="?", help="a checkpoint's folder, or a hub's owner/name")
    inspect.add_argument("--preset", help="a preset instead: 4b, small, tiny")
    create = actions.add_parser("create", help="write a preset with random weights, or with a trained backbone, to a folder")
    create.add_argument("--preset", required=True, help="4b, small or tiny")
    create.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where to write it")
    create.add_argument("--seed", type=int, default=0, help="seed of the random weights (default 0)")
    create.add_argument("--backbone", help="folder or hub id of a trained Qwen3.5 to take the backbone and its tokenizer from")
    words = parser.parse_args(arguments)
    _need_extra()
    return _inspect(words.checkpoint, words.preset) if words.action == "inspect" else _create(words)


def _need_extra() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise PolicyError(f"{error.name} is not installed, which Qwen-VLA needs; run: pip install 'vlarig[policy]'") from None


def _inspect(checkpoint: str | None, preset: str | None) -> int:
    from ..qwen_vla.config import PRESETS
    from ..qwen_vla.inspection import inspection

    if (checkpoint is None) == (preset is None):
        raise PolicyError("name one checkpoint or one preset, as in: vlarig policy inspect --preset small")
    if preset is not None and preset not in PRESETS:
        raise PolicyError(f"unknown preset {preset!r}; presets are {', '.join(PRESETS)}")
    console = Console(highlight=False)
    for part in inspection(preset or str(checkpoint)):
        console.print(part, soft_wrap=isinstance(part, Text))
    return 0


def _create(words: argparse.Namespace) -> int:
    from ..qwen_vla.checkpoint import load, save_checkpoint
    from ..qwen_vla.config import PRESETS

    if words.preset not in PRESETS:
        raise PolicyError(f"unknown preset {words.preset!r}; presets are {', '.join(PRESETS)}")
    save_checkpoint(words.out, load(words.preset, seed=words.seed, backbone=words.backbone))
    Console().print(
        f"written to {words.out}; look at it with: vlarig policy inspect {words.out}", highlight=False, soft_wrap=True
    )
    return 0
