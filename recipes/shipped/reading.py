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
#: Where the numbers have cosine and sine of twice a turn, in the frame of the state; those of four times follow.
TURN = 6 * PLACES
AT_ONCE = 16


def errors(read: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Of the object and of its place in cm, and of the turn in degrees, which is not a number where there is none, or none is read."""
    moved, place = (10 * float(np.linalg.norm(read[at : at + 3] - truth[at : at + 3])) for at in (0, 6))
    times, at = (2, TURN) if truth[TURN : TURN + 2].any() else (4, TURN + 2)
    said, is_so = (complex(*numbers[at : at + 2]) for numbers in (read, truth))
    turn = abs(np.degrees(np.angle(said * is_so.conjugate()))) / times if said and is_so else np.nan
    return moved, place, turn


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
        moved, place, turn = np.array(rows).T
        places = (f"{np.quantile(each, share):.1f}" for each in (moved, place) for share in (0.5, 0.9))
        table.add_row(task, str(len(rows)), *places, *(f"{np.nanquantile(turn, share):.0f}" for share in (0.5, 0.75)))
    Console(width=140).print(table)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
