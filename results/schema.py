"""The ledger's file: its SQL schema and version, how it is made, and the checks before it is trusted."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from ..envs.errors import VlarigError
from ..envs.home import appearing
from ..envs.untrusted import one_line
from .run_files import sync

LEDGER_NAME = "ledger.sqlite"
SCHEMA_VERSION = 2
APPLICATION_ID = 0x766C6172  # "vlar", in SQLite's field for the kind of file
_SQLITE_HEADER = b"SQLite format 3\x00"
_BUSY_SECONDS = 30.0

# `success_final` and `held_streak` are null where the protocol ended the episode on success: what would have followed was
# never seen. `longest_streak` then still is a lower bound.
_SCHEMA = f"""
BEGIN;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    git_revision TEXT,
    host TEXT NOT NULL,
    workers INTEGER NOT NULL,
    num_envs INTEGER NOT NULL,
    packages TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT
);
CREATE TABLE episodes (
    key TEXT PRIMARY KEY,
    suite TEXT NOT NULL,
    protocol TEXT NOT NULL,
    task TEXT NOT NULL,
    variant TEXT NOT NULL,
    initial_state INTEGER NOT NULL,
    repeat INTEGER NOT NULL,
    instruction TEXT,
    success INTEGER NOT NULL,
    success_first INTEGER NOT NULL,
    success_at_end INTEGER NOT NULL,
    streak INTEGER NOT NULL,
    longest_streak INTEGER NOT NULL,
    cut_short INTEGER NOT NULL,
    success_final INTEGER GENERATED ALWAYS AS (CASE WHEN cut_short THEN NULL ELSE success_at_end END),
    held_streak INTEGER GENERATED ALWAYS AS (CASE WHEN cut_short THEN NULL ELSE longest_streak END),
    reward REAL,
    steps INTEGER NOT NULL,
    primitives INTEGER NOT NULL,
    chunks TEXT NOT NULL,
    actions BLOB NOT NULL,
    metrics TEXT NOT NULL,
    state_digest TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    seconds TEXT NOT NULL,
    worker TEXT NOT NULL,
    session INTEGER REFERENCES sessions (id),
    written TEXT NOT NULL
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    worker TEXT NOT NULL,
    gave_up INTEGER NOT NULL,
    session INTEGER REFERENCES sessions (id),
    written TEXT NOT NULL
);
CREATE INDEX attempts_by_key ON attempts (key);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

#: The origins of a merged run's sessions; a ledger without merged sessions has no such table.
CREATE_ORIGINS = """
CREATE TABLE IF NOT EXISTS origins (
    session INTEGER PRIMARY KEY REFERENCES sessions (id),
    run TEXT NOT NULL,
    number INTEGER NOT NULL
)
"""


@contextmanager
def plain_errors(path: Path, doing: str) -> Generator[None]:
    """Turn SQLite's errors into one sentence about the ledger at ``path``; ``doing`` is ``read`` or ``written``."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a closed ledger, a wrong statement: our bug, not the user's mistake
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:  # SQLite quotes damaged text in its messages
        raise VlarigError(f"the ledger {path} cannot be {doing}: {one_line(str(error))}; {_advice(error)}") from error


def _advice(error: Exception) -> str:
    text = str(error)
    if "full" in text:
        return "free some disk space and give the same command again"
    if "malformed" in text or "not a database" in text or "no such" in text:
        return "the file is damaged: restore it from a copy, or start a new run; nothing was changed"
    if "locked" in text or "busy" in text:
        return "another program keeps it locked: close that and try again"
    return "check that its folder exists on a local disk, is writable, and has space left"


def create_file(path: Path) -> None:
    """Make an empty ledger; it appears under its name only when it is complete."""
    if path.exists():
        raise VlarigError(f"{path} exists already; open it to resume the run, or give another --run")
    with (
        plain_errors(path, "written"),
        appearing(path) as draft,
        closing(sqlite3.connect(draft, isolation_level=None)) as connection,
    ):
        connection.executescript(_SCHEMA)
    sync(path.parent)


def connect_writable(path: Path) -> sqlite3.Connection:
    """A connection that writes: every commit is on the disk when it returns (WAL, ``synchronous=FULL``)."""
    with plain_errors(path, "written"):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, beside a writer, after a killed one, or in a read-only folder."""
    with plain_errors(path, "read"):
        try:
            return _connect_uri(path, "mode=ro")
        except sqlite3.OperationalError:
            journal = path.with_name(path.name + "-wal")
            if os.access(path.parent, os.W_OK) or (journal.exists() and journal.stat().st_size > 0):
                raise
            return _connect_uri(path, "mode=ro&immutable=1")  # the folder is read-only, so there is no writer either


def _connect_uri(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA user_version")  # opens the file
    except sqlite3.Error:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def check_file(path: Path) -> None:
    """Make sure that the file is a sound ledger of a version that we can read. It is not changed."""
    if not path.is_file():
        raise VlarigError(f"there is no ledger at {path}; name the folder of a run, which `vlarig runs list` lists")
    with plain_errors(path, "read"), path.open("rb") as file:
        header = file.read(len(_SQLITE_HEADER))
    if header != _SQLITE_HEADER:
        raise VlarigError(f"{path} is no ledger: it does not begin like an SQLite file; restore it from a copy")
    with closing(connect_read_only(path)) as connection, plain_errors(path, "read"):
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            raise VlarigError(f"{path} is an SQLite file but no ledger of vlarig; restore the ledger from a copy")
        if version != SCHEMA_VERSION:
            advice = (
                "install a newer vlarig"
                if version > SCHEMA_VERSION
                else "resume the run once with vlarig 0.2, which upgrades it"
            )
            raise VlarigError(f"the ledger {path} has schema version {version}, this vlarig reads {SCHEMA_VERSION}; {advice}")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed ({' '.join(verdict.split())})")
