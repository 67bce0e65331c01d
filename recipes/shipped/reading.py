"""How well a checkpoint's backbone reads rendered scenes: python reading.py FOLDER CHECKPOINT.

FOLDER is of ``vlarig data render-questions``, with the ends of the suite's own tasks, best of scenes that no training has seen. The
table compares what the ends of prompts say with the simulator's truth, in the frame of the state: how far off the object and its place
are (cm), and the turn of the line along which the fingers are to close (degrees). A blind guess of a turn is 45 degrees off in the
median, and where a quarter of a turn makes no difference, as with a cube, 22.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vlarig.policies.qwen_vla.checkpoint import load_checkpoint
from vlarig.policies.qwen_vla.end_numbers import PLACES
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.named import find_checkpoint
from vlarig.training.data.render_questions import open_questions

#: Where a task's words are in a prompt.
TASK = re.compile(r"task: (.*?)\.")
AT_ONCE = 16


def turn_of(numbers: np.ndarray) -> tuple[complex, complex]:
    """Twice and four times a turn, as complex numbers of length 1, or 0 where that says nothing."""
    half_cos, half_sin, quarter_cos, quarter_sin = numbers[6 * PLACES : 6 * PLACES + 4]
    return complex(half_cos, half_sin), complex(quarter_cos, quarter_sin)


def errors(read: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Of the object and of its place in cm, and of the turn in degrees, which is not a number where there is none, or none is read."""
    apart = [10 * float(np.linalg.norm(read[at : at + 3] - truth[at : at + 3])) for at in (0, 6)]
    times = 2 if abs(turn_of(truth)[0]) > 0.5 else 4
    said, is_so = (turn_of(numbers)[times // 4] for numbers in (read, truth))
    turn = abs(np.degrees(np.angle(said * is_so.conjugate()))) / times if said and is_so else np.nan
    return apart[0], apart[1], turn


@torch.no_grad()
def main(folder: str, checkpoint: str) -> None:
    """Print the table."""
    policy = load_checkpoint(find_checkpoint(checkpoint), dtype=torch.float32)
    builder, model = InputBuilder(policy.description.config, policy.tokenizer), policy.model.eval()
    asked = []
    for dataset in open_questions(folder):
        conversations = (dataset[index].conversation for index in range(len(dataset)))
        asked += [each for each in conversations if each.ends is not None and np.isfinite(each.ends).all()]
    found = defaultdict(list)
    for first in range(0, len(asked), AT_ONCE):
        batch = asked[first : first + AT_ONCE]
        inputs = builder.build(batch)
        context = model.encode(inputs)
        read = model.backbone.model.language_model.ends(context.states, context.valid, inputs.last).numpy()
        for conversation, numbers in zip(batch, read, strict=True):
            words = TASK.search(str(conversation.turns[0].content[0]))
            found[words[1] if words else "?"].append(errors(numbers, np.array(conversation.ends)))
    table = Table("task", "scenes", "object, median", "90 %", "place, median", "90 %", "turn, median", "75 %")
    for task, rows in sorted(found.items()):
        thing, place, turn = np.array(rows).T
        places = (f"{np.quantile(each, share):.1f}" for each in (thing, place) for share in (0.5, 0.9))
        table.add_row(task, str(len(rows)), *places, *(f"{np.nanquantile(turn, share):.0f}" for share in (0.5, 0.75)))
    Console(width=140).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
