"""Success by iteration of trainings by PPO: kept as CSV beside this file, and plotted. Plotting needs matplotlib.

    python curves.py keep RUN FILE.csv [SUITE/TASK]         # of a training's folder, which is large; of one of its tasks
    python curves.py plot IMAGE TITLE=FILE.csv[,FILE.csv...] ...

A panel has the trainings of one task, such as its seeds; a file's name tells which is which. A line is the success of the episodes that
were rolled out, with noise; a mark is an evaluation, without noise, on initial states that are not rolled out.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

#: Column of a file to the training's own name of the number.
NUMBERS = {"rolled_out": "env/success", "evaluated": "eval/success"}


def keep(run: Path, file: Path, task: str = "") -> None:
    """Write the percentages of each iteration, of all tasks or of ``SUITE/TASK``; the last value counts where one was repeated."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"tensors": 0}).Reload()
    names = NUMBERS if not task else {"rolled_out": f"env/success/{task}", "evaluated": f"eval/{task.rpartition('/')[2]}"}
    found = {
        column: {event.step: 100 * event.tensor_proto.float_val[0] for event in events.Tensors(name)}
        for column, name in names.items()
    }
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["iteration", *NUMBERS])
        for iteration in sorted(set().union(*found.values())):
            values = [found[column].get(iteration) for column in NUMBERS]
            writer.writerow([iteration, *("" if value is None else f"{value:.1f}" for value in values)])


def read(file: Path, column: str) -> tuple[list[int], list[float]]:
    """Iterations that have such a number, and the numbers."""
    with file.open() as opened:
        rows = [row for row in csv.DictReader(opened) if row[column]]
    return [int(row["iteration"]) for row in rows], [float(row[column]) for row in rows]


def plot(image: Path, panels: dict[str, list[Path]]) -> None:
    """Plot the panels, three in a row."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in places[len(panels) :]:
        axes.remove()
    for axes, (title, files) in zip(places, panels.items(), strict=False):
        for number, file in enumerate(files):
            axes.plot(*read(file, "rolled_out"), color=f"C{number}", linewidth=1.2, label=file.stem)
            axes.plot(*read(file, "evaluated"), "o", color=f"C{number}")
        axes.set(title=title, xlabel="iteration", ylabel="success, %", ylim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="best")
    figure.savefig(image, dpi=110)


def main(action: str, target: str, *words: str) -> None:
    """What the command line says."""
    if action == "keep":
        file, *task = words
        keep(Path(target), Path(file), *task)
        return
    given = (word.partition("=") for word in words)
    plot(Path(target), {title: [Path(each) for each in files.split(",")] for title, _, files in given})


if __name__ == "__main__":
    main(*sys.argv[1:])
