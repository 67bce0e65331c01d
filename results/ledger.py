"""The ledger: which episodes of a run are finished, with what result, and which attempts failed. One SQLite file a run."""

from __future__ import annotations

import contextlib
import difflib
import heapq
import json
import sqlite3
import threading
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ..envs.errors import VlarigError
from .lock import RunLock
from .records import Attempt, EpisodeRecord, Session, TaskKey, differing_fields
from .rows import (
    ALL,
    COUNT_FINISHED,
    INSERT_ATTEMPT,
    INSERT_EPISODE,
    INSERT_SESSION,
    SELECT_ATTEMPTS,
    SELECT_GIVEN_UP,
    SELECT_LIGHT,
    SELECT_ONE,
    SELECT_WHOLE,
    attempt_value,
    episode_columns,
    episode_record,
    session_value,
    utc_now,
)
from .schema import LEDGER_NAME, check_file, connect_read_only, connect_writable, create_file, plain_errors

_Values = tuple[Any, ...] | dict[str, Any]


class Count(NamedTuple):
    """How many episodes of a task finished, succeeded, and were given up."""

    finished: int
    successes: int
    errors: int


class Ledger:
    """A run's ledger. Get one by :meth:`create`, :meth:`open` or :meth:`open_read_only`, and close it.

    Once :meth:`write_episode` has returned, the record survives the death of the process and of the machine. All methods may
    be called from any thread, one at a time. A writing ledger holds the run's lock.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: RunLock | None) -> None:
        """Use the class methods instead."""
        self.path = path
        self._connection = connection
        self._run_lock = lock
        self._session: int | None = None
        self._turn = threading.RLock()

    @classmethod
    def create(cls, run_dir: Path, lock: RunLock | None = None) -> Ledger:
        """A new, empty ledger in ``run_dir``, which is made where it is missing.

        ``lock`` is the run's where the caller holds it already; closing the ledger releases it.
        """
        held = lock or RunLock(run_dir)
        try:
            create_file(run_dir / LEDGER_NAME)
            return cls(run_dir / LEDGER_NAME, connect_writable(run_dir / LEDGER_NAME), held)
        except BaseException:
            held.release()
            raise

    @classmethod
    def open(cls, run_dir: Path, lock: RunLock | None = None) -> Ledger:
        """The ledger of ``run_dir``, to continue writing. Arguments are those of :meth:`create`."""
        path = run_dir / LEDGER_NAME
        check_file(path)  # before the lock: a folder that holds no run stays untouched
        held = lock or RunLock(run_dir)
        try:
            return cls(path, connect_writable(path), held)
        except BaseException:
            held.release()
            raise

    @classmethod
    def open_read_only(cls, run_dir: Path, one_snapshot: bool = False) -> Ledger:
        """The ledger of ``run_dir``, read-only; also while it is being written, and after its driver was killed.

        With ``one_snapshot`` all reads see one snapshot, while a driver continues writing.
        """
        path = run_dir / LEDGER_NAME
        check_file(path)
        connection = connect_read_only(path)
        if one_snapshot:
            connection.execute("BEGIN")
        return cls(path, connection, None)

    def close(self) -> None:
        """Record the session's end, close the file and release the run's lock; a second call does nothing."""
        with self._turn:
            try:
                if self._session is not None:
                    self._write("UPDATE sessions SET ended = ? WHERE id = ?", (utc_now(), self._session))
                    self._session = None
            finally:
                self._connection.close()
                if self._run_lock:
                    self._run_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # On a full disk the session's end cannot be written either: the first error is the one to report.
        with contextlib.suppress(*([VlarigError] if error is not None else [])):
            self.close()

    # Written by the driver.

    def start_session(self, session: Session) -> None:
        """Record a start of the driver; later writes belong to this session, and :meth:`close` ends it."""
        packages = json.dumps(session.packages, sort_keys=True)
        row = asdict(session) | {"packages": packages, "started": session.started or utc_now()}
        self._session = self._write(INSERT_SESSION, row).lastrowid

    def write_episode(self, record: EpisodeRecord) -> bool:
        """Write a finished episode, permanently.

        Returns:
            Whether it is new; ``False`` where the ledger has the same result already.

        Raises:
            ValueError: The record lacks its actions.
        """
        record.result()
        columns = episode_columns(record) | {"session": self._session, "written": utc_now()}
        with self._turn, plain_errors(self.path, "written"), self._transaction():
            if self._connection.execute(INSERT_EPISODE, columns).rowcount:
                return True
            standing = self._connection.execute(SELECT_ONE, (record.key,)).fetchone()
            differing = differing_fields(episode_record(standing, self.path, with_actions=True), record)
            if differing:
                raise VlarigError(
                    f"episode {record.key} has a result in {self.path} that differs from the new one in "
                    f"{', '.join(differing)}; an episode must give the same result every time, so find out whether its env or "
                    "its policy is not deterministic"
                )
            return False

    def write_attempt(self, attempt: Attempt) -> None:
        self._write(INSERT_ATTEMPT, asdict(attempt) | {"session": self._session, "written": utc_now()})

    # Read by everyone.

    def finished_keys(self) -> set[str]:
        return {row["key"] for row in self._read("SELECT key FROM episodes")}

    def error_keys(self) -> list[str]:
        """Keys of the unfinished episodes whose latest attempt was given up, sorted; a resumed run plays them."""
        return [row["key"] for row in self._read(SELECT_GIVEN_UP)]

    def records(self, with_actions: bool = False) -> list[EpisodeRecord]:
        """All finished episodes, sorted by key, of one point in time. Actions are left out (``float32[0, A]``) unless requested."""
        return self._page(ALL, with_actions)

    def each_record(self, with_actions: bool = False, at_a_time: int = 1000) -> Iterator[EpisodeRecord]:
        """The finished episodes like :meth:`records`, ``at_a_time`` of them in memory; one that finishes meanwhile may be missed."""
        page = self._page({"after": "", "most": at_a_time}, with_actions)
        while page:
            yield from page
            page = self._page({"after": page[-1].key, "most": at_a_time}, with_actions)

    def _page(self, values: dict[str, Any], with_actions: bool) -> list[EpisodeRecord]:
        rows = self._read(SELECT_WHOLE if with_actions else SELECT_LIGHT, values)
        return [episode_record(row, self.path, with_actions) for row in rows]

    def record(self, key: str) -> EpisodeRecord:
        """The finished episode of that key, with its actions."""
        rows = self._read(SELECT_ONE, (key,))
        if rows:
            return episode_record(rows[0], self.path, with_actions=True)
        failed = self.attempts(key)
        if failed:
            last = failed[-1]
            raise VlarigError(
                f"episode {key} has no result in {self.path}: its latest attempt ended with {last.kind} ({last.message}); "
                "resume the run to try it again"
            )
        near = _nearest(key, self.finished_keys())
        hint = f"did you mean {' or '.join(near)}?" if near else "no episode has finished yet"
        raise VlarigError(f"unknown episode {key!r} in {self.path}; {hint}")

    def attempts(self, key: str | None = None) -> list[Attempt]:
        """The failed attempts, of one episode or of all, in the order they were written."""
        wanted = "" if key is None else "WHERE key = :key"
        return [attempt_value(row) for row in self._read(f"{SELECT_ATTEMPTS} {wanted} ORDER BY attempts.id", {"key": key})]

    def sessions(self) -> list[Session]:
        """The driver's sessions, oldest first."""
        return [session_value(row, self.path) for row in self._read("SELECT * FROM sessions ORDER BY id")]

    def counts(self) -> dict[TaskKey, Count]:
        """Finished, successful and given-up episodes by task, all of one point in time."""
        with self._turn, plain_errors(self.path, "read"), self._transaction("DEFERRED"):
            finished = self._connection.execute(COUNT_FINISHED).fetchall()
            failed = self._connection.execute(SELECT_GIVEN_UP).fetchall()
        counts = {TaskKey(*row[:4]): Count(row[4], row[5], 0) for row in finished}
        for (key,) in failed:
            task = TaskKey.of(key)
            count = counts.get(task, Count(0, 0, 0))
            counts[task] = count._replace(errors=count.errors + 1)
        return counts

    def rows(self, sql: str, values: _Values = ()) -> Iterator[sqlite3.Row]:
        with plain_errors(self.path, "read"):
            yield from self._connection.execute(sql, values)

    def _read(self, sql: str, values: _Values = ()) -> list[sqlite3.Row]:
        with self._turn, plain_errors(self.path, "read"):
            return self._connection.execute(sql, values).fetchall()

    def _write(self, sql: str, values: _Values) -> sqlite3.Cursor:
        with self._turn, plain_errors(self.path, "written"), self._transaction():
            return self._connection.execute(sql, values)

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Generator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _nearest(key: str, known: set[str]) -> list[str]:
    """The known keys most like ``key``: those that share most parts, then those that read alike."""
    parts = key.split("/")
    alike = heapq.nlargest(200, sorted(known), lambda other: sum(a == b for a, b in zip(parts, other.split("/"), strict=False)))
    return difflib.get_close_matches(key, alike, n=3, cutoff=0.3) or alike[:1]
