"""Several runs named at once, as by ``runs/*``: one that cannot be read hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ...envs.errors import VlarigError
from ...results.ledger import Ledger
from ...results.run_files import utf8_text
from ...results.runs import evaluations_of, find_run, sweeps_of
from ...results.tables import run_table
from ..screen import Screen

T = TypeVar("T")
U = TypeVar("U")

#: Names of runs that cannot be read, each with the reason.
Refused = list[tuple[str, str]]


def read_each(runs: Iterable[T], read: Callable[[T], U]) -> tuple[list[U], Refused]:
    """What ``read`` gives for each run, and the runs for which it raises a :class:`VlarigError`."""
    found: list[U] = []
    refused: Refused = []
    first: VlarigError | None = None
    for run in runs:
        try:
            found.append(read(run))
        except VlarigError as error:
            first = first or error
            refused.append((utf8_text(Path(str(run)).name), utf8_text(str(error))))
    if first is not None and not found:
        raise first
    return found, refused


def find_runs(runs: Iterable[Path]) -> tuple[list[Path], Refused]:
    """The folders of runs, each once; of a training or a grid those of its sweeps. Returns like :func:`read_each`."""
    found, refused = read_each(runs, lambda run: evaluations_of(run) or sweeps_of(run) or [find_run(run)])
    folders = [folder for each in found for folder in each]
    return list({folder.resolve(): folder for folder in folders}.values()), refused


def check_run(folder: Path, with_actions: bool = False) -> Path:
    """The folder of a run whose episodes can all be read, with their actions or without."""
    run_table(folder)
    with Ledger.open_read_only(folder) as ledger:
        for _ in ledger.each_record(with_actions):
            pass
    return folder


def report_refused(refused: Sequence[tuple[str, str]]) -> int:
    """Print on standard error which runs were left out and why, and return the command's exit status: 1 where one was."""
    screen = Screen(stderr=True, soft_wrap=True)
    for name, reason in refused:
        screen.print(f"vlarig: {name} is left out: {reason}")
    return 1 if refused else 0
