"""What a training shows: a live line on a terminal, lines where there is none, and the trackers' numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..harness.sinks import TrackerName, make_tracker

#: The numbers that the line shows, by what it calls them.
SHOWN = {
    "train/loss": "loss",
    "train/samples_per_second": "samples_per_second",
    "env/success": "success_in_rollouts",
    "losses/kl_after": "kl_after",
    "time/iteration": "iteration",
    "eval/success": "success",
}


class Reporter:
    """Gets the numbers of a training. This one shows nothing: that of every process but the first."""

    def start(self, step: int, steps: int) -> None:
        """The training begins, or goes on, at a step."""

    def report(self, step: int, numbers: dict[str, float]) -> None:
        """Numbers of a step."""

    def note(self, sentence: str) -> None:
        """A line that is worth printing."""


class ConsoleReporter(contextlib.ExitStack, Reporter):
    """Shows and tracks. Use it as a context manager.

    Args:
        console: Where to.
        run: The run's folder, which trackers write to.
        track: Trackers.
        title: What is trained, in a few words.
        unit: Word for a step.
    """

    def __init__(self, console: Console, run: Path, track: Sequence[TrackerName], title: str, unit: str = "step") -> None:
        super().__init__()
        self._console = console
        self._run = run
        self._track = track
        self._title = title
        self._unit = unit

    def __enter__(self) -> Self:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self.enter_context(self._progress)
        return self

    def start(self, step: int, steps: int) -> None:
        """The training begins, or goes on, at a step; trackers write to its folder from now on."""
        self._trackers = [
            self.enter_context(contextlib.closing(make_tracker(name, self._run, self._run.name))) for name in self._track
        ]
        self._steps = steps
        self._task = self._progress.add_task(self._title, total=steps, completed=step, numbers="")
        self.note(f"{self._title}: {steps} {self._unit}s" + (f", {step} of them done" if step else ""))

    def report(self, step: int, numbers: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(numbers, step)
        shown = ", ".join(f"{label} {numbers[name]:.4g}" for name, label in SHOWN.items() if name in numbers)
        self._progress.update(self._task, completed=step, numbers=shown)
        if not self._console.is_terminal:
            (task,) = self._progress.tasks
            left = "" if task.time_remaining is None else f"; {timedelta(seconds=round(task.time_remaining))} left"
            self.note(f"{self._unit} {step} of {self._steps}: {shown}{left}")

    def note(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True)
