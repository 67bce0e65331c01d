"""Plots success by iteration of trainings by PPO: python curves.py IMAGE TITLE=FOLDER[,FOLDER...] ... It needs matplotlib.

A panel has the trainings of one task, such as its seeds; a folder's name tells which is which. A line is the success of the episodes
that were rolled out, with noise; a mark is an evaluation, without noise, on initial states that are not rolled out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROLLED_OUT, EVALUATED = "env/success_once", "eval/success"


def by_iteration(run: Path, name: str) -> tuple[list[int], list[float]]:
    """Iterations, and a number's percentages in them; the last value counts where an iteration was repeated."""
    events = EventAccumulator(str(run / "tensorboard"), {"tensors": 0}).Reload()
    found = {event.step: 100 * event.tensor_proto.float_val[0] for event in events.Tensors(name)}
    return sorted(found), [found[iteration] for iteration in sorted(found)]


def main(image: Path, panels: dict[str, list[Path]]) -> None:
    """Plot the panels side by side."""
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, (title, runs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, run in enumerate(runs):
            axes.plot(*by_iteration(run, ROLLED_OUT), color=f"C{number}", linewidth=1.2, label=f"{run.name}, rolled out")
            axes.plot(*by_iteration(run, EVALUATED), "o", color=f"C{number}", label=f"{run.name}, evaluated")
        axes.set(title=title, xlabel="iteration", ylabel="success, %", ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    given = (word.partition("=") for word in sys.argv[2:])
    main(Path(sys.argv[1]), {title: [Path(each) for each in folders.split(",")] for title, _, folders in given})
