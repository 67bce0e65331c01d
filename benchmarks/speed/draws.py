"""What a prompt and a draw of `small` cost in training, beside the same model without each of its deviations from the paper.

A prompt is the backbone's forward and backward pass over one with two views; a draw is the action expert's at one flow time of one
chunk. Times are the process's CPU time, of one thread, so that other work on the machine disturbs less. All variants take turns.

    python benchmarks/speed/draws.py
    python benchmarks/speed/draws.py --compute float32 --turns 5
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from spread import spread

from vlarig.policies.qwen_vla.config import PRESETS, ModelConfig
from vlarig.policies.qwen_vla.conversation import Conversation, Mark, Picture, Turn
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted
from vlarig.policies.qwen_vla.model import Batch, Chunks, QwenVla, build
from vlarig.policies.qwen_vla.tokenizer import add_view_tokens, small_tokenizer, token_ids

TEXT = (
    "The robot is Franka Panda with single arm. The control frequency is 20 Hz. Please predict the next 16 control actions to execute "
    "the following task: put the red cube in the black tray."
)
STATE = 8


@dataclass(frozen=True)
class Options:
    """Options."""

    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision that matrices are multiplied in."""
    batch: int = 16
    """Prompts of a micro-batch."""
    draws: int = 96
    """Draws of a micro-batch."""
    turns: int = 5
    """Turns of all variants."""


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    tokenizer = small_tokenizer()
    add_view_tokens(tokenizer)
    small = replace(PRESETS["small"](tokens=token_ids(tokenizer)), state="dit", state_size=STATE)
    variants = {
        "small": small,
        "stem = patch": replace(small, stem="patch"),
        "kept_tokens = 0": replace(small, kept_tokens=0),
        "expert.context = prompt": replace(small, expert=replace(small.expert, context="prompt")),
    }
    work: dict[tuple[str, str], Callable[[], float]] = {}
    for name, config in variants.items():
        model = build(config, compute=getattr(torch, options.compute)).train()
        builder = InputBuilder(config, tokenizer)
        work[name, "prompt"] = _prompts(model, builder, options.batch, ())
        work[name, "prompt, tower frozen"] = _prompts(model, builder, options.batch, ("vision",))
        work[name, "draw"] = _draws(model, builder, options.draws)
    found: dict[tuple[str, str], list[float]] = {each: [] for each in work}
    for turn in range(options.turns + 1):
        for each, measure in work.items():
            milliseconds = measure()
            if turn:  # the first one warms up
                found[each].append(milliseconds)
    table = Table(title=f"CPU ms of one thread, forward and backward, {options.compute}: median (range)", title_justify="left")
    kinds = list(dict.fromkeys(kind for _, kind in work))
    for column in ("", *kinds):
        table.add_column(column)
    for name in variants:
        cells = [spread(found[name, kind], 2 if kind == "draw" else 1) for kind in kinds]
        table.add_row(name, *(f"{median} ({spanned})" for median, spanned in cells))
    Console().print(table)


def _prompts(model: QwenVla, builder: InputBuilder, count: int, frozen: tuple[str, ...]) -> Callable[[], float]:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    marks = (Mark("red cube", 0.3, 0.4, "object"), Mark("black tray", 0.6, 0.5, "goal"))
    shown = [
        Picture(picture, view=view, marks=marks) for picture, view in zip(pictures, ("ego", "cam_left_wrist"), strict=True)
    ]
    asked = Conversation((Turn("user", (TEXT, *shown)), Turn("assistant", ("yes",))), (0.1,) * 23)
    inputs = builder.build([asked] * count, answers=False)

    def measure() -> float:
        model.freeze(*frozen, "expert", "value_head")
        began = time.process_time()
        losses = model(Batch(inputs))
        (losses.marks.sum + losses.ends.sum).backward()
        return 1000 * (time.process_time() - began) / count

    return measure


def _draws(model: QwenVla, builder: InputBuilder, count: int) -> Callable[[], float]:
    config: ModelConfig = model.config
    picture = np.zeros((128, 128, 3), np.uint8)
    with torch.no_grad():
        context = model.encode(builder.build([Prompted(TEXT, (("ego", picture), ("cam_left_wrist", picture)))]))
        known = model._for_expert(context)
    chunk = torch.randn(count, config.horizon, config.channels)
    chunks = Chunks(
        samples=torch.zeros(count, dtype=torch.int64),
        clean=chunk,
        mask=torch.ones_like(chunk, dtype=torch.bool),
        noise=torch.randn_like(chunk),
        time=torch.rand(count),
        state=torch.randn(count, config.state_numbers),
    )
    own = known[chunks.samples] if isinstance(known, torch.Tensor) else known.of(chunks.samples)

    def measure() -> float:
        model.freeze("vision", "language", "value_head")
        began = time.process_time()
        loss, _ = model._action_losses(chunks, own)
        loss.sum.backward()
        return 1000 * (time.process_time() - began) / count

    return measure


if __name__ == "__main__":
    main(tyro.cli(Options))
