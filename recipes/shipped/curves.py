"""Plots the losses of make.sh and measure.sh: python curves.py FOLDER IMAGE. It needs matplotlib.

A point of a line is the mean of five values in the training's TensorBoard file, one of every tenth step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

#: Title and scalar of each panel, and the runs that it shows, each with its words.
PANELS = (
    (
        "marks: names and centres of objects",
        "marks",
        {"tower": "the tower alone", "language": "the language model", "backbone": "both", "last": "both once more"},
    ),
    ("ends: places in decimetres", "ends", {"language": "the language model", "backbone": "both", "last": "both once more"}),
    (
        "T2A: the action expert, by seed",
        "action",
        {"t2a": "seed 0", "last_t2a": "seed 0, once more", "t2a-1": "seed 1", "t2a-2": "seed 2"},
    ),
    ("SFT of everything", "action", {"sft": "after T2A", "without_t2a": "without T2A"}),
)
SMOOTHED = 5
#: Where a panel ends above; losses of ends are negative where errors are small and known.
TOP = {"marks": 3.0, "ends": 6.0, "action": 0.5}


def main(folder: Path, image: Path) -> None:
    """Plot the losses of those runs that are there."""
    panels = [
        (title, loss, {run: words for run, words in runs.items() if (folder / run / "tensorboard").is_dir()})
        for title, loss, runs in PANELS
    ]
    panels = [panel for panel in panels if panel[-1]]
    figure = Figure(figsize=(3 * len(panels), 3), layout="constrained")
    for axes, (title, loss, runs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for run, words in runs.items():
            events = EventAccumulator(str(folder / run / "tensorboard"), {"tensors": 0}).Reload()
            found = {event.step: event.tensor_proto.float_val[0] for event in events.Tensors(f"train/loss/{loss}")}
            steps, values = np.array(sorted(found)), np.array([found[step] for step in sorted(found)])
            smooth = np.convolve(values, np.ones(SMOOTHED) / SMOOTHED, "valid")
            axes.plot(steps[len(steps) - len(smooth) :], smooth, label=words, linewidth=1.2)
        axes.set(title=title, xlabel="steps", ylim=(None, TOP[loss]))
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
