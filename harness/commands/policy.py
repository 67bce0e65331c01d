"""``vlarig policy``: inspect the embedded policy, or write one to a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from rich.text import Text
from tyro.conf import Positional, arg

from ...policies.api import PolicyError
from ..command_line import parse
from ..screen import Screen

DESCRIPTION = """Inspect Qwen-VLA, a checkpoint or a preset, and write a preset, or a checkpoint in another precision, to a folder.

  vlarig policy inspect                      # the checkpoint that vlarig brings along
  vlarig policy inspect --preset 4b          # parameters by part, as the paper prints them
  vlarig policy inspect FOLDER               # a checkpoint: its sizes, robots, statistics and prompts
  vlarig policy create --preset small --out FOLDER
  vlarig policy convert runs/sft/policy --dtype bfloat16 --out FOLDER
"""


@dataclass(frozen=True)
class Inspect:
    """Show parameter counts by part, robots, statistics and prompts."""

    checkpoint: Positional[Annotated[str | None, arg(metavar="[CHECKPOINT]")]] = None
    """A checkpoint's folder, or a hub's owner/name. Default: the one that vlarig brings along."""
    preset: str | None = None
    """A preset instead: 4b, small, tiny."""

    def run(self) -> None:
        from ...policies.qwen_vla.inspection import inspection
        from ...policies.qwen_vla.named import PRESETS

        if None not in (self.checkpoint, self.preset):
            raise PolicyError("name one checkpoint or one preset, as in: vlarig policy inspect --preset small")
        if self.preset is not None and self.preset not in PRESETS:
            raise PolicyError(f"unknown preset {self.preset!r}; presets are {', '.join(PRESETS)}")
        screen = Screen()
        for part in inspection(self.preset or self.checkpoint or ""):
            screen.print(part, soft_wrap=isinstance(part, Text))


@dataclass(frozen=True)
class Create:
    """Write a preset with random weights, or with a trained backbone, to a folder."""

    preset: str
    """4b, small or tiny."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where to write it."""
    seed: int = 0
    """Seed of the random weights."""
    backbone: str | None = None
    """Folder or hub id of a trained Qwen3.5 to take the backbone and its tokenizer from."""

    def run(self) -> None:
        from ...policies.qwen_vla.checkpoint import load, save_checkpoint
        from ...policies.qwen_vla.named import PRESETS

        if self.preset not in PRESETS:
            raise PolicyError(f"unknown preset {self.preset!r}; presets are {', '.join(PRESETS)}")
        save_checkpoint(self.out, load(self.preset, seed=self.seed, backbone=self.backbone))
        Screen(soft_wrap=True).print(f"written to {self.out}; inspect it with: vlarig policy inspect {self.out}")


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint in another precision, or with a number of steps to run; bfloat16 takes half the space of float32."""

    checkpoint: Positional[Annotated[str, arg(metavar="CHECKPOINT")]]
    """A checkpoint's folder, or a hub's owner/name."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where to write it."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the weights."""
    n_action_steps: Annotated[int | None, arg(metavar="N")] = None
    """Steps of a chunk that are run where a user names none, such as what a sweep found best. Default: the checkpoint's."""

    def run(self) -> None:
        import torch

        from ...policies.qwen_vla.checkpoint import load_checkpoint, save_checkpoint
        from ...policies.qwen_vla.named import find_checkpoint

        bundle = load_checkpoint(find_checkpoint(self.checkpoint), dtype=getattr(torch, self.dtype))
        if self.n_action_steps is not None:
            config = replace(bundle.description.config, n_action_steps=self.n_action_steps)
            bundle = replace(bundle, description=replace(bundle.description, config=config))
        save_checkpoint(self.out, bundle)
        Screen(soft_wrap=True).print(f"written to {self.out}; inspect it with: vlarig policy inspect {self.out}")


COMMANDS: dict[str, type[Inspect | Create | Convert]] = {"inspect": Inspect, "create": Create, "convert": Convert}


def main(arguments: list[str]) -> int:
    command = parse(COMMANDS, arguments, "vlarig policy", DESCRIPTION)
    if not isinstance(command, Inspect) or command.preset != "4b":  # the paper's size is shown without PyTorch
        from ...policies.qwen_vla.named import policy_class

        policy_class()
    command.run()
    return 0
