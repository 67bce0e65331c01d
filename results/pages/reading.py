"""Reads a run for its pages: totals that grow with the ledger, and its episodes a few at a time.

Of an episode only its success is kept in memory. All else is read when a page shows it, so that a run of any size can be
shown in little memory, also while it is being written.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ...envs.errors import VlarigError
from ..ledger import Count, Ledger
from ..lock import lock_holder
from ..manifest import Manifest
from ..measures import RunRecords, task_records
from ..records import Attempt, EpisodeRecord, TaskKey, split_key
from ..rows import numbers_in
from ..run_files import films_of, run_name
from ..runs import file_statuses
from ..tables import RunTable, counted_table

#: The activities of an episode's seconds, and the rest of their total.
ACTIVITIES = ("simulate", "render", "policy", "wait")

_SELECT_NEW = "SELECT rowid, key, success, steps, metrics, seconds FROM episodes WHERE rowid > ? ORDER BY rowid"
_SELECT_FAILED = "SELECT key, COUNT(*) FROM attempts WHERE key >= ? AND key < ? GROUP BY key"
_SELECT_LIST = """
SELECT key, initial_state, repeat, instruction, success, steps, seconds FROM episodes WHERE key >= ? AND key < ?
"""


@dataclass(frozen=True)
class Scored:
    """The data kept of a finished episode.

    Attributes:
        success: Whether it succeeded.
        metrics: Its metrics, which published columns may be of.
    """

    success: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


_SUCCESS, _FAILURE = Scored(True), Scored(False)  # of most suites, whose episodes are many and have no metrics


@dataclass
class TaskTotals:
    """Totals over the finished episodes of a task.

    Attributes:
        outcomes: Whether each succeeded, by its key.
        successes: How many did.
        steps: Steps that were executed in all of them.
        seconds: Their seconds by activity, and their ``total``.
        metrics: Name of a metric to the sum of its values and their number.
        repeats: Whether an initial state was played more than once.
    """

    outcomes: dict[str, Scored] = field(default_factory=dict)
    successes: int = 0
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)
    repeats: bool = False

    def add(self, row: sqlite3.Row) -> None:
        success = bool(row["success"])
        metrics = numbers_in(row["metrics"])
        plain = _SUCCESS if success else _FAILURE
        self.outcomes[row["key"]] = Scored(success, metrics) if metrics else plain
        self.successes += success
        self.steps += row["steps"]
        self.repeats = self.repeats or not row["key"].endswith("/0")
        for name, value in numbers_in(row["seconds"]).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        for name, value in metrics.items():
            total, count = self.metrics.get(name, (0.0, 0))
            self.metrics[name] = (total + value, count + 1)


@dataclass(frozen=True)
class Listed:
    """An episode in the list of its task.

    Attributes:
        initial_state: The benchmark's literal seed of the initial state, or its index.
        repeat: Which repeat of that initial state.
        success: Whether it succeeded; ``None`` where it was given up.
        steps: Steps that were executed.
        seconds: Wall time.
        failed_attempts: Attempts that failed for reasons that are not the policy's.
        instruction: The instruction that the policy got; empty where that is not known.
    """

    key: str
    initial_state: int
    repeat: int
    success: bool | None
    steps: int
    seconds: float
    failed_attempts: int
    instruction: str = ""


class DamagedRunError(VlarigError):
    """A part of a run cannot be read, found when a page of it was made.

    Attributes:
        reader: The run.
    """

    def __init__(self, reader: RunReader, reason: str) -> None:
        super().__init__(reason)
        self.reader = reader


class RunReader:
    """Reads one run; make it with :meth:`open`, and close it. Any thread may call, one at a time.

    Attributes:
        name: Name of the run.
        tasks: Its tasks, in the order of the manifest, with their totals.
        version: Changes whenever what the pages show has changed.
    """

    def __init__(self, folder: Path, manifest: Manifest, ledger: Ledger) -> None:
        """Use :meth:`open`."""
        self.folder = folder
        self.name = run_name(folder)
        self.manifest = manifest
        self.ledger = ledger
        self.tasks = {task: TaskTotals() for task in manifest.identity.planned}
        self.version: tuple[object, ...] = ()
        self._files = _identity_of(folder)
        self._last_row = 0
        self._errors: list[str] = []
        self._given_up: Counter[TaskKey] = Counter()
        self._films: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: Path, one_snapshot: bool = False) -> RunReader:
        """The run in ``folder``, read. With ``one_snapshot`` all reads see one snapshot, while a driver continues writing."""
        manifest = Manifest.load(folder)
        ledger = Ledger.open_read_only(folder, one_snapshot)
        try:
            reader = cls(folder, manifest, ledger)
            reader.update()
            reader.table()  # says so where manifest and ledger do not belong together
        except BaseException:
            ledger.close()
            raise
        return reader

    def close(self) -> None:
        self.ledger.close()

    @property
    def replaced(self) -> bool:
        """Whether the folder holds another run now, or none."""
        return _identity_of(self.folder) != self._files

    def update(self) -> None:
        """Read what has been written since the last time."""
        for row in self.ledger.rows(_SELECT_NEW, (self._last_row,)):
            self._count(row)
        self._errors = self.ledger.error_keys()
        self._given_up = Counter(map(TaskKey.of, self._errors))
        ((latest,),) = self.ledger.rows("SELECT MAX(id) FROM attempts")
        (ended,) = self.ledger.rows("SELECT COUNT(*), COUNT(ended) FROM sessions")
        self._films = films_of(self.folder, ".jpg")
        sheet = self.contact_sheet()
        rendered = sheet.stat().st_mtime_ns if sheet else 0
        self.version = (self._files, self._last_row, latest, tuple(ended), self.being_written, len(self._films), rendered)

    def _count(self, row: sqlite3.Row) -> None:
        try:
            self.tasks[TaskKey.of(row["key"])].add(row)
        except KeyError:
            raise VlarigError(
                f"{self.folder} mixes two runs: its ledger holds {row['key']}, against its manifest; restore both from a copy"
            ) from None
        except ValueError as error:
            raise VlarigError(
                f"the ledger {self.ledger.path} holds a damaged record of {row['key']}: {error}; restore the file from a copy"
            ) from error
        self._last_row = row["rowid"]

    @property
    def being_written(self) -> bool:
        """Whether a driver is writing the run."""
        return lock_holder(self.folder) is not None

    def table(self) -> RunTable:
        """The run's table, of the last :meth:`update`."""
        counts = {task: Count(0, 0, number) for task, number in self._given_up.items()}
        counts |= {task: Count(len(each.outcomes), each.successes, self._given_up[task]) for task, each in self.tasks.items()}
        return counted_table(self.folder, self.manifest, counts)

    def records(self) -> RunRecords:
        """The run's records, with success as their only result: enough for tables of success rates."""
        scored = {task: cast("Mapping[str, EpisodeRecord]", totals.outcomes) for task, totals in self.tasks.items()}
        return task_records(self.name, self.manifest, self._given_up, scored)

    def count(self, task: TaskKey) -> int:
        """How many episodes :meth:`listed` has."""
        return len(self.tasks[task].outcomes) + self._given_up[task]

    def task_version(self, task: TaskKey) -> tuple[object, ...]:
        """Changes whenever what the pages show of a task's episodes does."""
        return (self._files, len(self.tasks[task].outcomes), self._given_up[task], self._films)

    def listed(self, task: TaskKey) -> list[Listed]:
        """The task's episodes that finished or were given up, by initial state and repeat."""
        low, high = _range(task)
        failed: dict[str, int] = {key: count for key, count in self.ledger.rows(_SELECT_FAILED, (low, high))}  # noqa: C416
        listed = [
            Listed(row["key"], row["initial_state"], row["repeat"], bool(row["success"]), row["steps"],
                   numbers_in(row["seconds"]).get("total", 0.0), failed.get(row["key"], 0), row["instruction"] or "")
            for row in self.ledger.rows(_SELECT_LIST, (low, high))
        ]  # fmt: skip
        finished = self.tasks[task].outcomes
        for key in self._errors:
            if low <= key < high and key not in finished:
                *_, initial_state, repeat = split_key(key)
                listed.append(Listed(key, initial_state, repeat, None, 0, 0.0, failed.get(key, 0)))
        return sorted(listed, key=lambda episode: (episode.initial_state, episode.repeat))

    def attempt_kinds(self) -> list[tuple[str, int, int]]:
        """Kinds of failed attempts, with how many there were and how many of them were given up; the most frequent first."""
        wanted = "SELECT kind, COUNT(*) AS n, SUM(gave_up) FROM attempts GROUP BY kind ORDER BY n DESC, kind"
        return [tuple(row) for row in self.ledger.rows(wanted)]

    def given_up(self, most: int) -> list[Attempt]:
        """The last attempt at each of the first ``most`` episodes that have no result because they were given up."""
        return [self.ledger.attempts(key)[-1] for key in self._errors[:most]]

    def film(self, key: str) -> Path | None:
        name = f"{key.replace('/', '_')}.mp4"
        return self.folder / "videos" / name if name in self._films else None

    def poster(self, key: str) -> Path | None:
        film = self.film(key)
        name = f"{film.stem}.jpg" if film else ""
        return self.folder / "videos" / name if name in self._films else None

    def first_poster(self) -> str | None:
        """Key of the first episode, by task and initial state, that has a poster."""
        if not any(name.endswith(".jpg") for name in self._films):
            return None
        for totals in self.tasks.values():
            for key in sorted(totals.outcomes, key=lambda key: split_key(key)[4:]):
                if self.poster(key):
                    return key
        return None

    def contact_sheet(self) -> Path | None:
        path = self.folder / "frames.png"
        return path if path.is_file() else None


def _range(task: TaskKey) -> tuple[str, str]:
    """The range of texts that holds the keys of a task's episodes: ``0`` follows ``/``."""
    prefix = "/".join(task)
    return f"{prefix}/", f"{prefix}0"


def _identity_of(folder: Path) -> tuple[int, ...]:
    """What distinguishes a run's files from later ones in their place: the ledger's inode, and the manifest's time of writing."""
    manifest, ledger, _ = file_statuses(folder)
    return (ledger.st_ino, manifest.st_ino, manifest.st_mtime_ns) if manifest and ledger else ()
