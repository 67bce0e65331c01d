"""Rows of the ledger's tables, from records and back."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..envs.api import Outcome
from ..envs.errors import VlarigError
from .actions import decode_actions, decode_shape, encode_actions
from .records import Attempt, EpisodeRecord, Session

#: Columns that hold a field of the record as it is.
_PLAIN = (
    "key", "suite", "protocol", "task", "variant", "initial_state", "repeat", "steps", "primitives",
    "state_digest", "image_digest", "worker",
)  # fmt: skip

_EPISODE = (
    "key", "suite", "protocol", "task", "variant", "initial_state", "repeat", "instruction", "success", "success_first",
    "success_at_end", "streak", "longest_streak", "cut_short", "reward", "steps", "primitives", "chunks", "actions",
    "metrics", "state_digest", "image_digest", "seconds", "worker", "session", "written",
)  # fmt: skip
ATTEMPT = ("key", "number", "kind", "message", "worker", "gave_up", "session", "written")


def insertion(table: str, columns: Sequence[str]) -> str:
    """The statement that inserts a row whose values are given by the names of the columns."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"  # noqa: S608


INSERT_EPISODE = f"{insertion('episodes', _EPISODE)} ON CONFLICT (key) DO NOTHING"
SELECT_ONE = "SELECT * FROM episodes WHERE key = ?"
#: At most ``:most`` episodes, in the order of their keys, after a key.
_PAGE = "FROM episodes WHERE key > :after ORDER BY key LIMIT :most"
SELECT_WHOLE = f"SELECT * {_PAGE}"
#: Of the actions only the header, which has their shape.
SELECT_LIGHT = f"SELECT {', '.join(_EPISODE).replace('actions', 'substr(actions, 1, 12) AS actions')} {_PAGE}"
#: Values for these with which all episodes are read.
ALL = {"after": "", "most": -1}
INSERT_ATTEMPT = insertion("attempts", ATTEMPT)
SELECT_ATTEMPTS = "SELECT attempts.*, sessions.host FROM attempts LEFT JOIN sessions ON sessions.id = attempts.session"
INSERT_SESSION = insertion("sessions", ("git_revision", "host", "workers", "num_envs", "packages", "started"))
COUNT_FINISHED = "SELECT suite, protocol, task, variant, COUNT(*), SUM(success) FROM episodes GROUP BY 1, 2, 3, 4"
#: Unfinished episodes whose latest attempt was given up.
SELECT_GIVEN_UP = """
SELECT key FROM attempts WHERE gave_up AND id IN (SELECT MAX(id) FROM attempts GROUP BY key)
AND key NOT IN (SELECT key FROM episodes) ORDER BY key
"""


def utc_now() -> str:
    """The current time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def episode_columns(record: EpisodeRecord) -> dict[str, Any]:
    """What the table ``episodes`` holds of a record, by column."""
    outcome = record.outcome
    return {name: getattr(record, name) for name in _PLAIN} | {
        "instruction": record.instruction or None,
        "success": int(record.success),
        "success_first": int(outcome.first),
        "success_at_end": int(outcome.final),
        "streak": outcome.streak,
        "longest_streak": outcome.longest_streak,
        "cut_short": int(outcome.cut_short),
        "reward": record.reward,  # SQLite stores NaN as null
        "chunks": json.dumps(record.chunks),
        "actions": encode_actions(record.actions),
        "metrics": json.dumps(record.metrics, sort_keys=True),
        "seconds": json.dumps(record.seconds, sort_keys=True),
    }


def episode_record(row: sqlite3.Row, path: Path, with_actions: bool) -> EpisodeRecord:
    """The record in a row of the table ``episodes``, or of :data:`SELECT_LIGHT` where it is read without its actions."""
    try:
        blob = row["actions"]
        actions = decode_actions(blob) if with_actions else np.zeros((0, decode_shape(blob)[1]), np.float32)
        return EpisodeRecord(
            **{name: row[name] for name in _PLAIN},
            success=bool(row["success"]),
            outcome=Outcome(
                first=bool(row["success_first"]),
                final=bool(row["success_at_end"]),
                streak=row["streak"],
                longest_streak=row["longest_streak"],
                cut_short=bool(row["cut_short"]),
            ),
            reward=math.nan if row["reward"] is None else row["reward"],
            chunks=msgspec.convert(json.loads(row["chunks"]), tuple[int, ...]),
            actions=actions,
            metrics=numbers_in(row["metrics"]),
            seconds=numbers_in(row["seconds"]),
            instruction=row["instruction"] or "",
            written=row["written"],
        )
    except (VlarigError, ValueError, TypeError) as error:
        raise VlarigError(
            f"the ledger {path} holds a damaged record of {row['key']}: {error}; restore the file from a copy"
        ) from error


def numbers_in(text: str) -> dict[str, float]:
    """Numbers by name, out of a column that holds them as JSON.

    Raises:
        ValueError: It holds something else.
    """
    return msgspec.convert(json.loads(text), dict[str, float])


def attempt_value(row: sqlite3.Row) -> Attempt:
    """The attempt in a row of :data:`SELECT_ATTEMPTS`."""
    plain = {name: row[name] for name in ("key", "number", "kind", "message", "worker", "written")}
    return Attempt(**plain, gave_up=bool(row["gave_up"]), host=row["host"] or "")


def session_value(row: sqlite3.Row, path: Path) -> Session:
    """The session in a row of the table ``sessions``."""
    try:
        packages = msgspec.convert(json.loads(row["packages"]), dict[str, str])
    except ValueError as error:
        raise VlarigError(
            f"the ledger {path} holds a damaged record of session {row['id']}: {error}; restore the file from a copy"
        ) from error
    plain = {name: row[name] for name in ("git_revision", "host", "workers", "num_envs", "started", "ended")}
    return Session(**plain, packages=packages)
