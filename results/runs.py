"""Runs on the disk: starting or resuming one, finding one or several by name, and the list of all."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ..benchmarks.suite import unknown
from ..envs.errors import VlarigError
from .ledger import Ledger
from .lock import LOCK_NAME, RunLock, lock_holder
from .manifest import MANIFEST_NAME, Manifest, check_same
from .run_files import run_name, sync, utf8_text
from .schema import LEDGER_NAME
from .shards import owed_episodes

T = TypeVar("T")
U = TypeVar("U")

DEFAULT_RUNS = Path("runs")

#: What a grid's folder holds: its record, and the folders of its settings' runs and of the chosen one's.
GRID_RECORD, CELLS, CHOSEN = "grid.json", "cells", "chosen"

#: Folder of the runs within that of a training, whose evaluations they are.
EVALUATIONS = "evaluations"
_SET_ASIDE = re.compile(r"-old-[0-9]+$")

#: Names of runs that cannot be read, each with the reason.
Refused = list[tuple[str, str]]


def open_run(run_dir: Path, wanted: Manifest) -> Ledger:
    """Start the run in ``run_dir``, or resume it where it was started before with the same identity.

    A driver that is killed at any time in here leaves a folder that the next call completes. The ledger holds the run's lock until it
    is closed.
    """
    _check_free(run_dir)
    lock = RunLock(run_dir)
    try:
        if (run_dir / MANIFEST_NAME).exists():
            check_same(Manifest.load(run_dir), wanted, run_dir.name)
        elif (run_dir / LEDGER_NAME).exists():
            raise VlarigError(f"{run_dir} holds a ledger but no {MANIFEST_NAME}; restore that, or give another --run")
        else:
            wanted.save(run_dir)
        resumed = (run_dir / LEDGER_NAME).exists()
        return Ledger.open(run_dir, lock) if resumed else Ledger.create(run_dir, lock)
    except BaseException:
        lock.release()
        raise


def _check_free(run_dir: Path) -> None:
    """Make sure that a run may be in ``run_dir``: it is one, or has only the files of a driver that was killed at its start."""
    if not run_dir.exists() or _holds_run(run_dir):
        return
    if not run_dir.is_dir():
        raise VlarigError(f"{run_dir} is a file; give --run a folder")
    ours = (LOCK_NAME, "logs")
    others = sorted(
        path.name for path in run_dir.iterdir() if path.name not in ours and not path.name.startswith(f"{MANIFEST_NAME}.")
    )
    if others:
        raise VlarigError(
            f"{run_dir} is no run and holds other files ({', '.join(others[:3])}{', ...' * (len(others) > 3)}); "
            "give --run a new or an empty folder"
        )


def set_aside(run_dir: Path) -> Path | None:
    """Rename the run in ``run_dir``, so that another can start there; its files stay with it.

    Returns:
        Its folder from now on, ``<name>-old-<number>``; ``None`` where there is no run.
    """
    if not _holds_run(run_dir):
        return None
    place = run_dir.resolve()  # which has a name, where "." has none
    with RunLock(place):
        names = (f"{place.name}-old-{number}" for number in itertools.count(1))
        aside = next(folder for name in names if not (folder := place.with_name(name)).exists())
        try:
            place.rename(aside)
            sync(place.parent)
        except OSError as error:
            raise VlarigError(
                f"the run {run_dir} cannot be renamed to {aside.name}: {error.strerror}; give another --run"
            ) from None
    return run_dir.with_name(aside.name) if run_dir.name else aside


def sibling_runs(run_dir: Path) -> list[tuple[Path, Manifest]]:
    """The other runs below the folder that ``run_dir`` is in, the latest first; not those set aside, or that cannot be read."""
    found = []
    for folder in run_dirs(run_dir.parent):
        if folder.name != run_dir.name and not _SET_ASIDE.search(folder.name):
            with contextlib.suppress(VlarigError):
                found.append((folder, Manifest.load(folder)))
    return sorted(found, key=lambda each: each[1].record.created, reverse=True)


def find_run(name: Path) -> Path:
    """The folder of a run given by its path, or by its name below :data:`DEFAULT_RUNS`."""
    for folder in (name, DEFAULT_RUNS / name):
        if _holds_run(folder):
            return folder
    if name.is_dir():
        inside = [folder.name for folder in run_dirs(name)]
        hint = f"it holds the runs {', '.join(inside[:5])}" if inside else f"it has no {MANIFEST_NAME}"
        raise VlarigError(f"{name} is a folder but no run: {hint}; name the folder of a run")
    place = name.parent if name.parent != Path() else DEFAULT_RUNS
    raise unknown("run", name.name, [folder.name for folder in run_dirs(place)], str(place))


def evaluations_of(name: Path) -> list[Path]:
    """The evaluations in the folder of a training, given by its path or by its name below :data:`DEFAULT_RUNS`; of another none."""
    return run_dirs(name / EVALUATIONS) or run_dirs(DEFAULT_RUNS / name / EVALUATIONS)


def sweeps_of(name: Path) -> list[Path]:
    """The sweeps in the folder of a grid, the chosen one's last, given like a training's; of another folder none."""
    for folder in (name, DEFAULT_RUNS / name):
        if (folder / GRID_RECORD).is_file():
            return run_dirs(folder / CELLS) + run_dirs(folder / CHOSEN)
    return []


def find_runs(names: Iterable[Path]) -> tuple[list[Path], Refused]:
    """The folders of runs, each once; of a training or a grid those of its sweeps. Returns like :func:`read_each`."""
    found, refused = read_each(names, lambda name: evaluations_of(name) or sweeps_of(name) or [find_run(name)])
    folders = [folder for each in found for folder in each]
    return list({folder.resolve(): folder for folder in folders}.values()), refused


def read_each(runs: Iterable[T], read: Callable[[T], U]) -> tuple[list[U], Refused]:
    """What ``read`` gives for each run, and the runs for which it raises a :class:`VlarigError`: those hide no other.

    Raises:
        VlarigError: That of the first run, where no run can be read.
    """
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


def run_dirs(directory: Path) -> list[Path]:
    """The folders directly below ``directory`` that hold a run, sorted by name."""
    if not directory.is_dir():
        return []
    try:
        folders = list(directory.iterdir())
    except OSError as error:
        raise VlarigError(f"the folder {directory} cannot be read: {error.strerror}; name a folder that you may read") from None
    return sorted(folder for folder in folders if not folder.name.startswith(".") and _holds_run(folder))


def _holds_run(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_NAME).is_file() or (folder / LEDGER_NAME).is_file()
    except OSError:  # a folder that this user may not read
        return False


@dataclass(frozen=True)
class RunSummary:
    """A run in one line.

    Attributes:
        name: Name of the run's folder.
        policy: Name of the policy; empty where the run cannot be read.
        finished: Episodes with a result.
        expected: Episodes that the run, or the shard, consists of.
        errors: Episodes given up for reasons that are not the policy's.
        state: ``complete``, ``resumable``, ``being written``, or ``unreadable``.
        changed: Last change of the run's files, in local time.
        note: The process that is writing it, or why it cannot be read.
        shard: Which part of its run it is, as ``I/N``; ``None`` for a whole one.
    """

    name: str
    policy: str
    suites: tuple[str, ...]
    finished: int
    expected: int
    errors: int
    state: str
    changed: datetime
    note: str = ""
    shard: str | None = None


def list_runs(directory: Path = DEFAULT_RUNS) -> list[RunSummary]:
    """The runs directly below ``directory``, latest change first. A damaged run is listed too, and hides no other."""
    if not directory.is_dir():
        raise VlarigError(f"there is no folder {directory}; give the folder that holds the runs, as in `vlarig runs list PATH`")
    return sorted((summarize(folder) for folder in run_dirs(directory)), key=lambda run: (-run.changed.timestamp(), run.name))


def summarize(run_dir: Path) -> RunSummary:
    """The run in ``run_dir`` in one line, with problems in its note instead of an exception."""
    name, changed, holder = run_name(run_dir), _last_change(run_dir), lock_holder(run_dir)
    try:
        manifest = Manifest.load(run_dir)
        expected = sum(owed_episodes(manifest).values())
        finished = errors = 0
        if (run_dir / LEDGER_NAME).exists():  # a driver may have been killed before it made one
            with Ledger.open_read_only(run_dir) as ledger:
                counts = ledger.counts().values()
            finished, errors = sum(count.finished for count in counts), sum(count.errors for count in counts)
    except VlarigError as error:
        return RunSummary(name, "", (), 0, 0, 0, "unreadable", changed, utf8_text(str(error)))
    state = "being written" if holder else "complete" if finished == expected else "resumable"
    suites, shard = tuple(suite.name for suite in manifest.identity.suites), manifest.record.shard
    policy = manifest.identity.policy
    return RunSummary(name, policy, suites, finished, expected, errors, state, changed, holder or "", shard)


def _last_change(run_dir: Path) -> datetime:
    """When one of the run's files was changed last."""
    return datetime.fromtimestamp(max((status.st_mtime for status in file_statuses(run_dir) if status), default=0.0))


def file_statuses(run_dir: Path) -> list[os.stat_result | None]:
    """What the disk says of a run's manifest, its ledger, and the ledger's journal; ``None`` for one that is missing."""
    found: list[os.stat_result | None] = []
    for name in (MANIFEST_NAME, LEDGER_NAME, f"{LEDGER_NAME}-wal"):
        try:
            found.append((run_dir / name).stat())
        except OSError:
            found.append(None)
    return found
