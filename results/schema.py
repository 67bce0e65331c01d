"""The ledger's file: its SQL schema and version, how it is made, and the checks before it is trusted."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from ..envs.errors import VlarigError
from ..envs.untrusted import one_line
from .records import split_key
from .run_files import appearing, own_path, sync

LEDGER_NAME = "ledger.sqlite"
SCHEMA_VERSION = 2
APPLICATION_ID = 0x766C6172  # "vlar", in SQLite's field for the kind of file
_SQLITE_HEADER = b"SQLite format 3\x00"
_BUSY_SECONDS = 30.0

# `success_final` and `held_streak` are null where the protocol ended the episode on success: what would have followed was
# never seen. `longest_streak` then still is a lower bound. The first
# ledgers lack `instruction`; before version 2 `initial_state` was called `start`, and `num_envs` `slots`.
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

_VERSION_1 = _SCHEMA.replace("initial_state INTEGER", "start INTEGER").replace("num_envs INTEGER", "slots INTEGER")
_WITHOUT_INSTRUCTIONS = _VERSION_1.replace("    instruction TEXT,\n", "")
_ADD_INSTRUCTIONS = "ALTER TABLE episodes ADD COLUMN instruction TEXT;"
_RENAME_COLUMNS = """
ALTER TABLE episodes RENAME COLUMN start TO initial_state;
ALTER TABLE sessions RENAME COLUMN slots TO num_envs;
PRAGMA user_version = 2;
"""
#: Every script that may have made a ledger's tables.
_SCHEMAS = (
    _SCHEMA,
    _VERSION_1,
    _VERSION_1 + _RENAME_COLUMNS,
    _WITHOUT_INSTRUCTIONS,
    _WITHOUT_INSTRUCTIONS + _ADD_INSTRUCTIONS,
    _WITHOUT_INSTRUCTIONS + _ADD_INSTRUCTIONS + _RENAME_COLUMNS,
)

#: The origins of a merged run's sessions; a ledger without merged sessions has no such table.
CREATE_ORIGINS = """
CREATE TABLE IF NOT EXISTS origins (
    session INTEGER PRIMARY KEY REFERENCES sessions (id),
    run TEXT NOT NULL,
    number INTEGER NOT NULL
)
"""

#: What SQLite does not check by itself: any value may be in any column.
_WRONG_VALUES = {
    "episodes": """success NOT IN (0, 1) OR success_first NOT IN (0, 1) OR success_at_end NOT IN (0, 1) OR cut_short NOT IN (0, 1)
        OR min(steps, primitives, streak, longest_streak) < 0 OR max(steps, primitives, streak, longest_streak) >= 1 << 31
        OR key != suite || '/' || protocol || '/' || task || '/' || variant || '/' || initial_state || '/' || repeat""",
    "attempts": "gave_up NOT IN (0, 1)",
}
_SELECT_TABLES = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name IN ('sessions', 'episodes', 'attempts', 'origins')"
)


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
    if "malformed" in text or "not a database" in text:
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
    """A connection that writes: every commit is on the disk when it returns (WAL, ``synchronous=FULL``).

    An earlier ledger gets the current columns.
    """
    with plain_errors(path, "written"):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        columns = _columns(connection)
        upgrade = _ADD_INSTRUCTIONS * ("instruction" not in columns) + _RENAME_COLUMNS * ("start" in columns)
        if upgrade:
            connection.executescript(f"BEGIN IMMEDIATE; {upgrade} COMMIT;")
    return connection


def _columns(connection: sqlite3.Connection) -> set[str]:
    """The columns of the episodes' table; empty where there is none."""
    return {row["name"] for row in connection.execute("PRAGMA main.table_info(episodes)")}


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
        connection.row_factory = sqlite3.Row
        if "start" in (columns := _columns(connection)):  # views of this connection alone, in place of the file's tables
            added = "" if "instruction" in columns else ", NULL AS instruction"
            connection.execute(
                f"CREATE TEMP VIEW episodes AS SELECT rowid, *, start AS initial_state{added} FROM main.episodes"  # noqa: S608
            )
            if any(row["name"] == "slots" for row in connection.execute("PRAGMA main.table_info(sessions)")):
                connection.execute("CREATE TEMP VIEW sessions AS SELECT *, slots AS num_envs FROM main.sessions")
    except sqlite3.Error:
        connection.close()
        raise
    connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from anyone
    return connection


def check_file(path: Path) -> None:
    """Make sure that the file is a sound ledger of a version that we can read. It is not changed."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        own_path(path.parent, path.name + suffix)
    if not path.is_file():
        raise VlarigError(f"there is no ledger at {path}; name the folder of a run, which `vlarig runs` lists")
    with plain_errors(path, "read"), path.open("rb") as file:
        header = file.read(len(_SQLITE_HEADER))
    if header != _SQLITE_HEADER:
        raise VlarigError(f"{path} is no ledger: it does not begin like an SQLite file; restore it from a copy")
    with closing(connect_read_only(path)) as connection, plain_errors(path, "read"):
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            raise VlarigError(f"{path} is an SQLite file but no ledger of vlarig; restore the ledger from a copy")
        if version > SCHEMA_VERSION:
            raise VlarigError(
                f"the ledger {path} has schema version {version}, this vlarig reads up to {SCHEMA_VERSION}; "
                "install a newer vlarig"
            )
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed ({' '.join(verdict.split())})")
        _check_tables(connection, path)
        _check_values(connection, path)


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the tables are those that were made here: not views, other columns, or with programs of their own."""
    found = dict(connection.execute(_SELECT_TABLES))
    if not any(_has_tables(found, script) for script in _SCHEMAS):
        raise VlarigError(f"{path} lacks the tables of a ledger of vlarig; restore the ledger from a copy")
    if trigger := connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchone():
        raise VlarigError(f"{path} has a trigger, {trigger[0]!r}, which could change what is written; drop it")


def _has_tables(found: dict[str, str], script: str) -> bool:
    """Whether the tables, name to SQL, are those that a script makes, with :data:`CREATE_ORIGINS` or without."""
    with closing(sqlite3.connect(":memory:")) as example:
        example.executescript(script + CREATE_ORIGINS)
        expected = dict(example.execute(_SELECT_TABLES))
    return found.keys() | {"origins"} == expected.keys() and all(expected[name] == sql for name, sql in found.items())


def _check_values(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that columns hold what they are declared to hold."""
    for table in ("sessions", "episodes", "attempts"):
        wrong = [_WRONG_VALUES[table]] if table in _WRONG_VALUES else []
        for _, name, kind, not_null, _, is_key in connection.execute(f"PRAGMA main.table_info({table})"):
            kinds = f"'{kind.lower()}'" if not_null or is_key else f"'{kind.lower()}', 'null'"
            wrong.append(f"typeof({name}) NOT IN ({kinds})")
        found = connection.execute(f"SELECT rowid FROM {table} WHERE {' OR '.join(wrong)} LIMIT 1").fetchone()  # noqa: S608
        if found:
            raise VlarigError(
                f"the ledger {path} holds a damaged record: row {found[0]} of {table}; restore the file from a copy"
            )
    for (key,) in connection.execute("SELECT DISTINCT key FROM attempts"):
        try:
            *_, initial_state, repeat = split_key(key)
            if not -(2**63) <= min(initial_state, repeat) <= max(initial_state, repeat) < 2**63:
                raise ValueError(f"{key!r} has a number beyond 64 bits")
        except ValueError as error:
            raise VlarigError(f"the ledger {path} holds a damaged record: {error}; restore the file from a copy") from error
